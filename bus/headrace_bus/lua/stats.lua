#!lua flags=no-writes
-- include: keys
-- ARGV: limit of namespaces per class
-- Reply: {queued, delayed, leased, returned, oldest queued ms or '', mean service ms or '', queued Calls, namespace, count, namespace, count …}
local oldest = redis.call('ZRANGE', P .. 'queued', 0, 0, 'WITHSCORES')[2]
local mean = readable(redis.pcall('HGET', P .. 'service', 'mean_ms'))
if mean and #mean > 32 then mean = '' end
local reply = {
  redis.call('ZCARD', P .. 'queued'), redis.call('ZCARD', P .. 'delayed'), redis.call('ZCARD', P .. 'leases'),
  redis.call('ZCARD', P .. 'returned'), oldest or '', mean or '', 0,
}
for _, class in ipairs({'Call', 'Task'}) do
  for _, namespace in ipairs(redis.call('ZRANGE', ring_key(class), 0, limited(ARGV[1], LIMIT_MAX) - 1)) do
    if is_name(namespace) then
      local count = redis.call('ZCARD', queue_key(class, namespace))
      if class == 'Call' then reply[7] = reply[7] + count end
      table.insert(reply, namespace)
      table.insert(reply, count)
    end
  end
end
return reply
