#!lua flags=allow-oom
-- include: keys forget streams callers leases entries service ended
-- ARGV: request, uid, attempt, nonce
-- Reply: '1' or '0' (lost)
local request, uid, attempt = ARGV[1], ARGV[2], ARGV[3]
local now = now_ms()
local held, claimed = end_lease(uid, attempt, ARGV[4])
-- Whoever completed it holds it no more: only then can this be a repetition.
if not held then return ended(uid, now) == attempt .. ' ' .. request and '1' or '0' end

forget(uid)
served(now, claimed)
note_end(uid, now, attempt, request)
return '1'
