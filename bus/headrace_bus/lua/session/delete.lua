#!lua flags=allow-oom
-- include: keys sessions
-- ARGV: id
-- Reply: 1, or 0 where there was none
redis.call('ZREM', ENDS, ARGV[1])
redis.call('HDEL', SIZES, ARGV[1])
return redis.call('UNLINK', session_key(ARGV[1]))
