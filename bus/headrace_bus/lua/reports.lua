#!lua flags=no-writes
-- include: keys
-- ARGV: limit, longest report
-- Reply: worker, report, worker, report …
local reports = {}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', P .. 'workers', now_ms(), '+inf', 'LIMIT', 0, tonumber(ARGV[1]))) do
  local report = readable(redis.pcall('GET', report_key(worker)))
  if report and #report <= tonumber(ARGV[2]) then
    table.insert(reports, worker)
    table.insert(reports, report)
  end
end
return reports
