#!lua flags=no-writes
-- include: keys
-- ARGV: uid, attempt, longest payload
-- Reply: the payload, or nil when that attempt has none parked
local entry = fields(ARGV[1], 'attempt', 'state', 'reason')
if attempt_number(entry[1]) ~= tonumber(ARGV[2]) or entry[2] ~= 'Returned' or entry[3] ~= 'Parked' then return false end
local payload = redis.call('GET', parked_key(ARGV[1]))
if payload and #payload > limited(ARGV[3], REPLY_MAX) then return redis.error_reply('ERR longer than any that is parked') end
return payload
