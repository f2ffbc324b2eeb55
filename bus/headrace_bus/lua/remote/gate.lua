#!lua flags=no-writes
-- include: keys gate
-- ARGV: none
-- Reply: {breaker, reason, message, ms until that may change, concurrency or 0 before the first call, calls under way}
local now = now_ms()
local gate, known = load_gate(now, CONCURRENCY_MAX)
local calls = readable(redis.pcall('ZRANGEBYSCORE', CALLS, now, '+inf', 'LIMIT', 0, CONCURRENCY_MAX)) or {}
local reply = told(gate, now, #calls)
if not known then reply[5] = 0 end
return reply
