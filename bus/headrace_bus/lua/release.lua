#!lua flags=allow-oom
-- include: keys requests wake leases
-- ARGV: request, uid, attempt, nonce, failure
-- Reply: '1' or '0' (lost)
local now = now_ms()
local reply = recall(ARGV[1], now)
if reply then return reply end
if not holds(ARGV[2], ARGV[3], ARGV[4]) then return '0' end
to_returned(ARGV[2], now, 'Released', ARGV[5])
wake_operator()
return remember(ARGV[1], now, '1')
