#!lua flags=no-writes
-- include: keys
-- ARGV: limit
-- Reply: worker, report, worker, report …
local reports = {}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', now_ms(), '+inf', 'LIMIT', 0, tonumber(ARGV[1]))) do
  local report = redis.call('GET', report_key(worker))
  if report then
    table.insert(reports, worker)
    table.insert(reports, report)
  end
end
return reports
