#!lua flags=no-writes
-- include: keys
-- ARGV: uid, id after which, limit of events, longest event
-- Reply: {1 when the event of that id is there, id, event, id, event …}; ends before what no step has written
if not is_name(ARGV[1]) then return {0} end
local key, longest = P .. 'replay:' .. ARGV[1], limited(ARGV[4], REPLY_MAX)

-- One at a time: how large the next one is shows when it is read.
local function at(from, to)
  local found = readable(redis.pcall('XRANGE', key, from, to, 'COUNT', 1))
  return found and found[1]
end

local reply, size, after = {at(ARGV[2], ARGV[2]) and 1 or 0}, 0, ARGV[2]
for _ = 1, limited(ARGV[3], LIMIT_MAX) do
  local found = at('(' .. after, '+')
  local event = found and found[2][2]
  if not event or #event > longest or size + #event > REPLY_MAX then break end
  after, size = found[1], size + #event
  table.insert(reply, after)
  table.insert(reply, event)
end
return reply
