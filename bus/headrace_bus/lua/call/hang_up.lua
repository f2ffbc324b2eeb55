#!lua flags=allow-oom
-- include: keys weights ring wake forget streams callers inbox
-- ARGV: uid, reader, limit of words in an inbox
-- Reply: 1, or 0 where there is no such call of this reader. No request id: what is gone is gone when asked again.
local uid = ARGV[1]
local entry = fields(uid, 'reader', 'state', 'namespace', 'member')
if not entry[1] or entry[1] ~= ARGV[2] then return 0 end
tell_holder(uid, 'Drop', ARGV[3])
if entry[2] == 'Queued' and is_name(entry[3]) and entry[4] then unqueue(uid, 'Call', entry[3], entry[4]) end
redis.call('ZREM', P .. 'leases', uid)
forget(uid)
wake_workers()
return 1
