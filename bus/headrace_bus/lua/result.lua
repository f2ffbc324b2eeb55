#!lua flags=no-writes
-- include: keys
-- ARGV: uid, longest result
-- Reply: the kept result, or nil
if not is_name(ARGV[1]) then return false end
local result = redis.call('GET', result_key(ARGV[1]))
if result and #result > limited(ARGV[2], REPLY_MAX) then return redis.error_reply('ERR longer than any that is kept') end
return result
