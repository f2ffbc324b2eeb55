#!lua
-- include: keys requests wake forget streams callers leases service
-- ARGV: request, uid, attempt, nonce, payload, limit of payloads parked
-- Reply: '1', '0' (lost) or 'full'. Without allow-oom: at maxmemory it is refused before its first command.
local request, uid = ARGV[1], ARGV[2]
local now = now_ms()
local held, claimed, reader = holds(uid, ARGV[3], ARGV[4])
-- Whoever parked it holds it no more: only then can this be a repetition.
if not held then return recall(request, now) or '0' end
-- A call has nobody who would commit it.
if reader then return '0' end
if redis.call('ZCARD', P .. 'parked') >= limited(ARGV[6], LIMIT_MAX) then return 'full' end
to_returned(uid, now, 'Parked', '')
redis.call('SET', parked_key(uid), ARGV[5])
redis.call('ZADD', P .. 'parked', now, uid)
served(now, claimed)
wake_operator()
return remember(request, now, '1')
