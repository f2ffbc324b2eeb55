#!lua flags=allow-oom
-- include: keys requests weights ring wake forget streams callers leases pulse sweep
-- ARGV: request, limit
-- Reply: how many entries moved
local now = now_ms()
local reply = recall(ARGV[1], now)
if reply then return reply end
local moved = sweep(now, ARGV[2])
wake_workers()
if moved > 0 then remember(ARGV[1], now, tostring(moved)) end
return tostring(moved)
