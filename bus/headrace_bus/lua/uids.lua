#!lua flags=no-writes
-- include: keys
-- ARGV: cursor, about how many
-- Reply: {cursor, uid, attempt, state, uid, attempt, state …}; what has no readable entry is not held
local page = redis.call('HSCAN', P .. 'index', ARGV[1], 'COUNT', limited(ARGV[2], LIMIT_MAX))
local reply = {page[1]}
for i = 1, #page[2], 2 do
  local uid = page[2][i]
  local entry = fields(uid, 'attempt', 'state')
  if attempt_number(entry[1]) > 0 and entry[2] and #entry[2] <= 16 then
    table.insert(reply, uid)
    table.insert(reply, entry[1])
    table.insert(reply, entry[2])
  end
end
return reply
