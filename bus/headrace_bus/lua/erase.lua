#!lua flags=allow-oom
-- include: keys
-- ARGV: cursor, how many keys of the server to look at
-- Reply: the cursor to go on with, '0' at the end. Names stay here: they are as long as somebody made them.
-- The operator's alone. For what no index names, once nobody writes it any more.
local found = redis.call('SCAN', ARGV[1], 'MATCH', P .. '*', 'COUNT', limited(ARGV[2], LIMIT_MAX))
for _, key in ipairs(found[2]) do redis.call('UNLINK', key) end
return found[1]
