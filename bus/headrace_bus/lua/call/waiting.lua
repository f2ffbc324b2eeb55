#!lua flags=allow-oom
-- include: keys streams callers
-- ARGV: reader, lease_ms, then uids
-- Reply: per uid 'Queued', 'Leased', or '' where it is not known, or not this reader's. No request id: it renews, nothing else.
local reader = ARGV[1]
if #ARGV > 2 + LIMIT_MAX then return redis.error_reply('ERR more calls than are asked for at once') end
redis.call('SET', waiter_key(reader), '1', 'PX', ARGV[2])
local reply = {}
for i = 3, #ARGV do
  local entry = fields(ARGV[i], 'state', 'reader')
  local known = entry[2] == reader and (entry[1] == 'Queued' or entry[1] == 'Leased')
  table.insert(reply, known and entry[1] or '')
end
return reply
