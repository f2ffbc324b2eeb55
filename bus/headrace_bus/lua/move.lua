#!lua flags=allow-oom
-- include: keys
-- ARGV: uid, attempt, class, namespace, score
-- Reply: 1 when this attempt waits, then at that place, else 0. No request id: doing it again changes nothing.
local uid, score = ARGV[1], ARGV[5]
local entry = fields(uid, 'state', 'attempt', 'score', 'member')
if attempt_number(entry[2]) ~= tonumber(ARGV[2]) then return 0 end
if entry[1] ~= 'Queued' and entry[1] ~= 'Delayed' then return 0 end
if entry[3] == score then return 1 end
redis.call('HSET', entry_key(uid), 'score', score)
if entry[1] == 'Queued' and entry[4] then redis.call('ZADD', queue_key(ARGV[3], ARGV[4]), 'XX', score, entry[4]) end
return 1
