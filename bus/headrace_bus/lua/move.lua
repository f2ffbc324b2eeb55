#!lua flags=allow-oom
-- include: keys reorder
-- ARGV: uid, attempt, class, namespace, score
-- Reply: 1 when this attempt waits, then at that place, else 0. No request id: doing it again changes nothing.
local uid = ARGV[1]
if attempt_number(fields(uid, 'attempt')[1]) ~= tonumber(ARGV[2]) then return 0 end
return reorder(uid, ARGV[3], ARGV[4], ARGV[5]) and 1 or 0
