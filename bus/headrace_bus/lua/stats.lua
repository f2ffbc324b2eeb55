#!lua flags=no-writes
-- include: keys
-- ARGV: limit of namespaces per class
-- Reply: {queued, delayed, leased, returned, oldest queued ms or '', mean service ms or '', namespace, count, namespace, count …}
local oldest = redis.call('ZRANGE', P .. 'queued', 0, 0, 'WITHSCORES')[2]
local mean = readable(redis.pcall('HGET', P .. 'service', 'mean_ms'))
local reply = {
  redis.call('ZCARD', P .. 'queued'), redis.call('ZCARD', P .. 'delayed'), redis.call('ZCARD', P .. 'leases'),
  redis.call('ZCARD', P .. 'returned'), oldest or '', mean or '',
}
for _, class in ipairs({'Call', 'Task'}) do
  for _, namespace in ipairs(redis.call('ZRANGE', ring_key(class), 0, tonumber(ARGV[1]) - 1)) do
    table.insert(reply, namespace)
    table.insert(reply, redis.call('ZCARD', queue_key(class, namespace)))
  end
end
return reply
