#!lua flags=allow-oom
-- include: keys requests weights ring wake leases pulse sweep
-- ARGV: request (becomes the nonce), worker, count, lease_ms, highest envelope version read, calls_per_task, sweep_limit
-- Reply: {version that is too new or 0, {uid, attempt, claimed_ms, enqueued_ms, lease_until_ms, envelope} …}
-- allow-oom: claiming is the way to completing, which frees memory.
local request, worker, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[4])
local now = now_ms()

local function delivery(uid)
  local entry = fields(uid, 'attempt', 'claimed', 'enqueued')
  local lease_until = redis.call('ZSCORE', P .. 'leases', uid)
  local envelope = readable(redis.pcall('GET', envelope_key(uid)))
  return {uid, entry[1], entry[2], entry[3], string.format('%.0f', lease_until), envelope}
end

local deliveries = {}
local replay = recall(request, now)
if replay then
  for uid in string.gmatch(replay, '[^ ]+') do
    local attempt = fields(uid, 'attempt')[1]
    if attempt and holds(uid, attempt, request) then
      -- Whoever asks again could not renew meanwhile.
      redis.call('ZADD', P .. 'leases', 'XX', now + lease_ms, uid)
      table.insert(deliveries, delivery(uid))
    end
  end
  return {0, deliveries}
end

sweep(now, tonumber(ARGV[7]), lease_ms)
local too_new, uids = 0, {}
while #uids < tonumber(ARGV[3]) do
  local class = next_class(tonumber(ARGV[6]))
  if not class then break end
  local uid, member, namespace, start = head(class)
  if not uid then
    leave_ring(class, namespace, start)
  else
    local entry = fields(uid, 'version', 'since', 'attempt', 'member')
    local version = number(entry[1], 0)
    if version > tonumber(ARGV[5]) then
      too_new = version
      break
    end
    take_head(class, uid, member, namespace, start)
    if attempt_number(entry[3]) > 0 and entry[4] == member then
      redis.call('HSET', entry_key(uid), 'state', 'Leased', 'since', now, 'claimed', now, 'enqueued', entry[2] or now,
        'worker', worker, 'nonce', request)
      redis.call('ZADD', P .. 'leases', now + lease_ms, uid)
      table.insert(uids, uid)
      table.insert(deliveries, delivery(uid))
    end
  end
end
if #uids > 0 then
  pulse(now, lease_ms)
  remember(request, now, table.concat(uids, ' '))
end
wake_workers()
return {#uids == 0 and too_new or 0, deliveries}
