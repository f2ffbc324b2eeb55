#!lua flags=no-writes
-- include: keys describe
-- ARGV: limit
-- Reply: entries as inspect tells them, the one that came back first first
local entries = {}
for _, uid in ipairs(redis.call('ZRANGE', P .. 'returned', 0, tonumber(ARGV[1]) - 1)) do
  local entry = describe(uid)
  if entry then table.insert(entries, entry) end
end
return entries
