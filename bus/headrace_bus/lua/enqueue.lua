#!lua
-- include: keys weights ring reorder wake forget entries inbox ended
-- ARGV: request, uid, attempt, class, namespace, name, score, cost, not_before_ms, version, envelope, limit of words in an inbox
-- Reply: the outcome. Without allow-oom: at maxmemory it is refused before its first command.
local request, uid, attempt = ARGV[1], ARGV[2], ARGV[3]
local class, namespace, name, score = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local now = now_ms()
local found = fields(uid, 'attempt', 'enqueued_by', 'outcome')
local present = attempt_number(found[1])
local offered = tonumber(attempt)
if present == offered then
  -- A repetition, for a caller whose reply got lost: it is told what the first one did. Where somebody has removed the
  -- entry in between it is queued again, as by a caller that looked before; the operator removes what has no object.
  if found[2] == request then return found[3] == 'Superseded' and 'Superseded' or 'Enqueued' end
  local _, elsewhere = reorder(uid, class, namespace, score)
  if elsewhere then redis.call('SET', envelope_key(uid), ARGV[11]) end
  return 'Duplicate'
end
-- An attempt that was completed a short while ago is over: a caller that looked before does not run it again.
if present > offered or attempt_number(string.match(ended(uid, now), '^%d+')) >= offered then return 'Stale' end

-- Also what cannot be read gives way.
if redis.call('EXISTS', entry_key(uid)) == 1 then
  tell_holder(uid, 'Drop', ARGV[12])
  detach(uid)
  redis.call('DEL', entry_key(uid))
end
local outcome = present > 0 and 'Superseded' or 'Enqueued'
redis.call('SET', envelope_key(uid), ARGV[11])
redis.call('HSET', P .. 'index', uid, attempt)
local told = {'attempt', attempt, 'class', class, 'namespace', namespace, 'name', name, 'score', score, 'cost', ARGV[8],
  'version', ARGV[10], 'enqueued_by', request, 'outcome', outcome}
if tonumber(ARGV[9]) > now then
  redis.call('HSET', entry_key(uid), 'state', 'Delayed', 'since', now, unpack(told))
  redis.call('ZADD', P .. 'delayed', ARGV[9], uid)
  wake_workers()
  -- Let one waiter look again at the time until which it may sleep.
  if redis.call('ZRANGE', P .. 'delayed', 0, 0)[1] == uid then lay_token() end
else
  push(uid, class, namespace, score, now, unpack(told))
  lay_token()
end
return outcome
