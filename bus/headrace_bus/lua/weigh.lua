#!lua flags=allow-oom
-- include: keys
-- ARGV: namespace, weight of every namespace that has one
-- No request id: doing it again changes nothing.
if #ARGV > 20 * LIMIT_MAX then return redis.error_reply('ERR more weights than are kept') end
redis.call('UNLINK', P .. 'weights')
for i = 1, #ARGV, 2 do redis.call('HSET', P .. 'weights', ARGV[i], ARGV[i + 1]) end
return 1
