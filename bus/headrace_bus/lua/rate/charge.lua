#!lua flags=allow-oom
-- include: keys rates
-- ARGV: tokens per minute, tokens that were used
-- Reply: 1
-- What is more than was left is a debt, which the following requests wait for. allow-oom: as rate/take.
local now = now_ms()
local full = full_at(now)
full.tokens = spend(full.tokens, now, per_minute(ARGV[2]), per_minute(ARGV[1]))
save_full(full, now)
return 1
