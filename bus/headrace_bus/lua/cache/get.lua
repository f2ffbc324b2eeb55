#!lua flags=no-writes
-- include: keys
-- ARGV: digest, longest value
-- Reply: the value, or nil
if not is_name(ARGV[1]) then return false end
local value = readable(redis.pcall('GET', cached_key(ARGV[1])))
if value and #value > limited(ARGV[2], REPLY_MAX) then return false end
return value
