#!lua flags=allow-oom
-- include: keys weights ring wake entries inbox
-- ARGV: uid, attempt, limit of words in an inbox
-- Reply: 1, or 0 when this attempt or a later one is leased. No request id: what is gone is gone when asked again.
local uid = ARGV[1]
local entry = fields(uid, 'state', 'attempt')
local leased = entry[1] == 'Leased' and redis.call('ZSCORE', P .. 'leases', uid)
if leased and attempt_number(entry[2]) >= tonumber(ARGV[2]) then return 0 end
tell_holder(uid, 'Drop', tonumber(ARGV[3]))
detach(uid)
forget(uid)
wake_workers()
return 1
