#!lua flags=no-writes
-- include: keys describe
-- ARGV: limit, uid and ms at which it came back to go on after ('' and 0 = from the first), how many after it to pass over
-- Reply: {how many were looked at, 1 when there may be more, entries as inspect tells them …}, the one that came back
-- first first
local start = 0
if ARGV[2] ~= '' then
  local rank = redis.call('ZRANK', P .. 'returned', ARGV[2])
  if rank and number(redis.call('ZSCORE', P .. 'returned', ARGV[2]), 0) == tonumber(ARGV[3]) then
    start = rank + 1
  else
    -- It is gone: those that came back in the same millisecond may be told again.
    local following = redis.call('ZRANGEBYSCORE', P .. 'returned', ARGV[3], '+inf', 'LIMIT', 0, 1)[1]
    start = following and redis.call('ZRANK', P .. 'returned', following) or redis.call('ZCARD', P .. 'returned')
  end
end
start = start + (ARGV[4] == '0' and 0 or limited(ARGV[4], 2^31))
local limit = limited(ARGV[1], LIMIT_MAX)
local uids = redis.call('ZRANGE', P .. 'returned', start, start + limit - 1)
local reply, size = {#uids, #uids == limit and 1 or 0}, 0
for i, uid in ipairs(uids) do
  local entry = describe(uid)
  if entry then
    table.insert(reply, entry)
    size = size + BESIDE_MAX + #entry[10]
    if size > REPLY_MAX - FAILURE_MAX - BESIDE_MAX then
      reply[1], reply[2] = i, 1
      break
    end
  end
end
return reply
