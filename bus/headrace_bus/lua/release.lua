#!lua flags=allow-oom
-- include: keys requests wake forget streams callers leases
-- ARGV: request, uid, attempt, nonce, failure
-- Reply: '1' or '0' (lost)
local now = now_ms()
-- Whoever gave it back holds it no more: only then can this be a repetition.
if not holds(ARGV[2], ARGV[3], ARGV[4]) then return recall(ARGV[1], now) or '0' end
to_returned(ARGV[2], now, 'Released', ARGV[5])
wake_operator()
return remember(ARGV[1], now, '1')
