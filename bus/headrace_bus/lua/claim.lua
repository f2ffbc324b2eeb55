#!lua flags=allow-oom
-- include: keys requests weights ring turns wake forget streams callers leases pulse sweep
-- ARGV: request (becomes the nonce), worker, count, lease_ms, highest envelope version read, calls_per_task, sweep_limit
-- Reply: {version that is too new or 0, {uid, attempt, claimed_ms, enqueued_ms, lease_until_ms, envelope} …}
-- allow-oom: claiming is the way to completing, which frees memory.
-- What nobody can take is taken out on the way, so much at a time.
local LOOKED_MAX = 256
local request, worker, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[4])
local now = now_ms()

local until_ms = now + lease_ms

local function delivery(uid, attempt, claimed, enqueued)
  return {uid, attempt, claimed, enqueued, until_ms, readable(redis.pcall('GET', envelope_key(uid)))}
end

local deliveries = {}
local replay = recall(request, now)
if replay then
  local words = 0
  for uid in string.gmatch(replay, '[^ ]+') do
    words = words + 1
    if words > DELIVERIES_MAX then break end
    local entry = fields(uid, 'attempt', 'claimed', 'enqueued')
    if entry[1] and holds(uid, entry[1], request) then
      -- Whoever asks again could not renew meanwhile.
      redis.call('ZADD', P .. 'leases', 'XX', until_ms, uid)
      table.insert(deliveries, delivery(uid, unpack(entry, 1, 3)))
    end
  end
  return {0, deliveries}
end

local _, pulsed = sweep(now, ARGV[7], lease_ms)
local too_new, uids, leases, limit = 0, {}, {}, limited(ARGV[3], DELIVERIES_MAX)
local calls_per_task, looked, seen = limited(ARGV[6], LIMIT_MAX), 0, {}
while #uids < limit and looked < LOOKED_MAX do
  local class = next_class(calls_per_task, limit)
  if not class then break end
  looked = looked + 1
  local member = turns[class].members[turns[class].at]
  local uid = string.sub(member, 18)
  -- Many members may name one uid.
  local entry = seen[uid] and {} or fields(uid, 'version', 'since', 'attempt', 'member', 'cost', 'reader')
  seen[uid] = true
  local version = number(entry[1], 0)
  if version > tonumber(ARGV[5]) then
    too_new = version
    break
  end
  advance(class, uid, math.max(1, number(entry[5], 1)))
  if entry[6] and entry[4] == member and not waits(entry[6]) then
    -- Nobody waits for this call any more.
    forget(uid)
  elseif attempt_number(entry[3]) > 0 and entry[4] == member then
    local enqueued = entry[2] or now
    redis.call('HSET', entry_key(uid), 'state', 'Leased', 'since', now, 'claimed', now, 'enqueued', enqueued,
      'worker', worker, 'nonce', request)
    table.insert(uids, uid)
    table.insert(leases, until_ms)
    table.insert(leases, uid)
    table.insert(deliveries, delivery(uid, entry[3], now, enqueued))
  end
end
end_turns()
if #uids > 0 then
  redis.call('ZADD', P .. 'leases', unpack(leases))
  if not pulsed then pulse(now, lease_ms) end
  remember(request, now, table.concat(uids, ' '))
end
if waiting then lay_token() else wake_workers() end
return {#uids == 0 and too_new or 0, deliveries}
