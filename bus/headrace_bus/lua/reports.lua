#!lua flags=no-writes
-- include: keys
-- ARGV: how many to pass over, limit, longest report
-- Reply: {how many were looked at, 1 when there may be more, worker, report, worker, report …}
local limit, longest = limited(ARGV[2], LIMIT_MAX), limited(ARGV[3], REPLY_MAX)
local passed = ARGV[1] ~= '0' and limited(ARGV[1], 2^31) or 0
local workers = redis.call('ZRANGEBYSCORE', P .. 'workers', now_ms(), '+inf', 'LIMIT', passed, limit)
local reply, size = {#workers, 0}, 0
for i, worker in ipairs(workers) do
  local report = is_name(worker) and readable(redis.pcall('GET', report_key(worker)))
  if report and #report <= longest then
    size = size + #worker + #report
    table.insert(reply, worker)
    table.insert(reply, report)
    -- One more of these would be too much.
    if size > REPLY_MAX - longest - NAME_MAX then
      reply[1], reply[2] = i, 1
      break
    end
  end
end
return reply
