#!lua flags=no-writes
-- include: keys
-- ARGV: worker, longest telemetry
-- Reply: what that worker told last, or nil when that is too long ago
if not is_name(ARGV[1]) then return false end
local told = readable(redis.pcall('GET', gpus_key(ARGV[1])))
if told and #told > limited(ARGV[2], REPLY_MAX) then return false end
return told
