#!lua flags=allow-oom
-- include: keys requests weights ring wake forget entries inbox ended
-- ARGV: request, uid, limit of words in an inbox
-- Reply: '1' when there was an entry, a result or the memory of its end, else '0'
local uid = ARGV[2]
local now = now_ms()
local reply = recall(ARGV[1], now)
if reply then return reply end
local known = redis.call('EXISTS', entry_key(uid), result_key(uid), parked_key(uid)) > 0 or redis.call('HGET', P .. 'index', uid)
if not forget_end(uid, now) and not known then return '0' end
tell_holder(uid, 'Drop', ARGV[3])
detach(uid)
forget(uid)
redis.call('UNLINK', result_key(uid))
redis.call('ZREM', P .. 'results', uid)
wake_workers()
return remember(ARGV[1], now, '1')
