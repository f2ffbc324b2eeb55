#!lua flags=allow-oom
-- include: keys requests ended
-- ARGV: limit of what one call takes; 0 takes no more entries, but their index
-- Reply: how many entries, results, cached ones, reports and parked payloads are left. No request id: doing it again purges on.
local limit = ARGV[1] ~= '0' and limited(ARGV[1], 200) or 0

-- A key of another type than ours has nothing to follow.
local function take(...) return limit > 0 and readable(redis.pcall(...)) or {} end

for _, uid in ipairs(take('HRANDFIELD', P .. 'index', limit)) do
  local entry = fields(uid, 'class', 'namespace', 'worker')
  if entry[1] and entry[2] then redis.call('UNLINK', queue_key(entry[1], entry[2])) end
  if entry[3] then redis.call('UNLINK', inbox_key(entry[3]), gpus_key(entry[3])) end
  redis.call('UNLINK', entry_key(uid), envelope_key(uid), result_key(uid), parked_key(uid), P .. 'replay:' .. uid)
  redis.call('HDEL', P .. 'index', uid)
end
for _, class in ipairs({'Call', 'Task'}) do
  for _, namespace in ipairs(take('ZRANGE', ring_key(class), 0, limit - 1)) do redis.call('UNLINK', queue_key(class, namespace)) end
end
local results = take('ZPOPMIN', P .. 'results', limit)
for i = 1, #results, 2 do redis.call('UNLINK', result_key(results[i])) end
local workers = take('ZPOPMIN', P .. 'workers', limit)
for i = 1, #workers, 2 do redis.call('UNLINK', report_key(workers[i]), inbox_key(workers[i]), gpus_key(workers[i])) end
local parked = take('ZPOPMIN', P .. 'parked', limit)
for i = 1, #parked, 2 do redis.call('UNLINK', parked_key(parked[i])) end
local cached = take('ZPOPMIN', P .. 'cached', limit)
for i = 1, #cached, 2 do redis.call('UNLINK', cached_key(cached[i])) end

-- Without these nothing is claimed, renewed or found any more, from the first call on.
local now = now_ms()
redis.call('UNLINK', ring_key('Call'), ring_key('Task'), finish_key('Call'), finish_key('Task'), P .. 'clock', P .. 'seq',
  P .. 'queued', P .. 'delayed', P .. 'leases', P .. 'pulse', P .. 'returned', P .. 'wake', P .. 'weights', P .. 'service',
  P .. 'gate', P .. 'calls', P .. 'booked', P .. 'waiting',
  bucket_key(now, 0), bucket_key(now, 1), ended_key(now, 0), ended_key(now, 1))

local left = 0
for key, count in pairs({index = 'HLEN', results = 'ZCARD', workers = 'ZCARD', parked = 'ZCARD', cached = 'ZCARD'}) do
  local held = limit > 0 and readable(redis.pcall(count, P .. key))
  if held then left = left + held else redis.call('UNLINK', P .. key) end
end
return left
