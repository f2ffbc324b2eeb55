#!lua flags=allow-oom
-- include: keys rates
-- ARGV: requests per minute or 0, tokens per minute or 0
-- Reply: 0 when this request is admitted, else ms until one may be
-- Of tokens one has to be left: what a request takes is known when it has ended. allow-oom: one small key, which ends.
local now = now_ms()
local requests, tokens = per_minute(ARGV[1]), per_minute(ARGV[2])
local full = full_at(now)
local wait = math.max(wait_ms(full.requests, now, 1, requests), wait_ms(full.tokens, now, 1, tokens))
if wait > 0 then return math.ceil(wait) end
full.requests = spend(full.requests, now, 1, requests)
save_full(full, now)
return 0
