#!lua flags=no-writes
-- include: keys ledger
-- ARGV: cursor, about how many
-- Reply: {cursor, uid, attempt, uid, attempt …}
local page = redis.call('HSCAN', P .. 'held', ARGV[1], 'COUNT', limited(ARGV[2], LIMIT_MAX))
local reply = {page[1]}
for i = 1, #page[2], 2 do
  local held = reservation(page[2][i])
  if held then
    table.insert(reply, page[2][i])
    table.insert(reply, held.attempt)
  end
end
return reply
