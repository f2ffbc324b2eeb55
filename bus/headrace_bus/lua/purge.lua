#!lua flags=allow-oom
-- include: keys requests
-- ARGV: limit of what one call takes
-- Reply: how many entries, results and reports are left. No request id: doing it again purges on.
local limit = tonumber(ARGV[1])
for _, uid in ipairs(redis.call('HRANDFIELD', P .. 'index', limit)) do
  local entry = redis.call('HMGET', entry_key(uid), 'class', 'namespace')
  if entry[1] then redis.call('UNLINK', queue_key(entry[1], entry[2])) end
  redis.call('UNLINK', entry_key(uid), envelope_key(uid), result_key(uid))
  redis.call('HDEL', P .. 'index', uid)
end
local results = redis.call('ZPOPMIN', P .. 'results', limit)
for i = 1, #results, 2 do redis.call('UNLINK', result_key(results[i])) end
local workers = redis.call('ZPOPMIN', P .. 'workers', limit)
for i = 1, #workers, 2 do redis.call('UNLINK', report_key(workers[i])) end

-- Without these nothing is claimed, renewed or found any more, from the first call on.
local now = now_ms()
redis.call('UNLINK', ring_key('Call'), ring_key('Task'), finish_key('Call'), finish_key('Task'), P .. 'clock', P .. 'seq',
  P .. 'queued', P .. 'delayed', P .. 'leases', P .. 'returned', P .. 'wake', P .. 'weights', bucket_key(now, 0), bucket_key(now, 1))
return redis.call('HLEN', P .. 'index') + redis.call('ZCARD', P .. 'results') + redis.call('ZCARD', P .. 'workers')
