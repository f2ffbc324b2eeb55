#!lua
-- include: keys weights ring wake forget streams callers
-- ARGV: request, uid, attempt, namespace, name, score, cost, version, envelope, reader, lease_ms
-- Reply: the outcome. Without allow-oom: at maxmemory it is refused before its first command.
local request, uid, attempt, namespace, reader = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[10]
local now = now_ms()
redis.call('SET', waiter_key(reader), '1', 'PX', ARGV[11])
local found = fields(uid, 'attempt', 'enqueued_by', 'state', 'member')
if found[2] == request and found[1] == attempt then return 'Enqueued' end
-- Its reader alone makes its attempts, one after the other: what is still there is over.
if found[1] or redis.call('EXISTS', entry_key(uid)) == 1 then
  if found[3] == 'Queued' and found[4] then unqueue(uid, 'Call', namespace, found[4]) end
  redis.call('ZREM', P .. 'leases', uid)
  forget(uid)
end
redis.call('SET', envelope_key(uid), ARGV[9])
push(uid, 'Call', namespace, ARGV[6], now, 'attempt', attempt, 'class', 'Call', 'namespace', namespace, 'name', ARGV[5],
  'score', ARGV[6], 'cost', ARGV[7], 'version', ARGV[8], 'enqueued_by', request, 'reader', reader)
lay_token()
return 'Enqueued'
