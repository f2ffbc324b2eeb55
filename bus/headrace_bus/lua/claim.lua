#!lua flags=allow-oom
-- include: keys requests weights ring wake leases sweep
-- ARGV: request (becomes the nonce), worker, count, lease_ms, highest envelope version read, calls_per_task, sweep_limit
-- Reply: {version that is too new or 0, {uid, attempt, claimed_ms, enqueued_ms, lease_until_ms, envelope} …}
-- allow-oom: claiming is the way to completing, which frees memory.
local request, worker = ARGV[1], ARGV[2]
local now = now_ms()

local function delivery(uid)
  local entry = redis.call('HMGET', entry_key(uid), 'attempt', 'claimed', 'enqueued')
  local lease_until = redis.call('ZSCORE', P .. 'leases', uid)
  return {uid, entry[1], entry[2], entry[3], string.format('%.0f', lease_until), redis.call('GET', envelope_key(uid))}
end

local deliveries = {}
local replay = recall(request, now)
if replay then
  for uid in string.gmatch(replay, '[^ ]+') do
    local attempt = redis.call('HGET', entry_key(uid), 'attempt')
    if attempt and holds(uid, attempt, request, now) then table.insert(deliveries, delivery(uid)) end
  end
  return {0, deliveries}
end

sweep(now, tonumber(ARGV[7]))
local too_new, uids = 0, {}
while #uids < tonumber(ARGV[3]) do
  local class = next_class(tonumber(ARGV[6]))
  if not class then break end
  local uid, member, namespace, start = head(class)
  if not uid then
    leave_ring(class, namespace, start)
  else
    local entry = redis.call('HMGET', entry_key(uid), 'version', 'since')
    local version = tonumber(entry[1] or 0)
    if version > tonumber(ARGV[5]) then
      too_new = version
      break
    end
    take_head(class, uid, member, namespace, start)
    if entry[1] then
      redis.call('HSET', entry_key(uid), 'state', 'Leased', 'since', now, 'claimed', now, 'enqueued', entry[2],
        'worker', worker, 'nonce', request)
      redis.call('ZADD', P .. 'leases', now + tonumber(ARGV[4]), uid)
      table.insert(uids, uid)
      table.insert(deliveries, delivery(uid))
    end
  end
end
if #uids > 0 then remember(request, now, table.concat(uids, ' ')) end
wake_workers()
return {#uids == 0 and too_new or 0, deliveries}
