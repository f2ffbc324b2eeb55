#!lua flags=allow-oom
-- include: keys weights ring wake forget entries inbox
-- ARGV: uid, attempt, limit of words in an inbox, state in which exactly this attempt is taken all the same ('' for none)
-- Reply: 1, or 0 when this attempt or a later one is leased, came back as parked, or is not in that state. No request id: what is gone is gone when asked again.
local uid = ARGV[1]
local entry = fields(uid, 'state', 'attempt', 'reason')
local leased = entry[1] == 'Leased' and redis.call('ZSCORE', P .. 'leases', uid)
local present, wanted, over = attempt_number(entry[2]), tonumber(ARGV[2]), ARGV[4]
-- Somebody's work, or its result: only whoever has seen that very state passes it over.
local kept = leased or (entry[1] == 'Returned' and entry[3] == 'Parked') or over == 'Leased'
-- Leased without a lease is nobody's: no transition leaves it so, and nobody could complete it.
local seen = present == wanted and entry[1] == over
if kept and present >= wanted and not seen then return 0 end
tell_holder(uid, 'Drop', ARGV[3])
detach(uid)
forget(uid)
wake_workers()
return 1
