#!lua flags=allow-oom
-- include: keys ledger
-- ARGV: of each line: line, start_ms, spent tokens and micros as told
-- Reply: of each line: spent tokens and micros, those reserved. What nobody settled in time is let go first.
if #ARGV > 4 * LINES_MAX then return redis.error_reply('ERR more budgets than are kept') end
expire(now_ms())
local reply = {}
for i = 1, #ARGV, 4 do
  local line = opened(ARGV[i], number(ARGV[i + 1], 0), ARGV[i + 2], ARGV[i + 3])
  keep(line)
  for _, value in ipairs({line.tokens, line.micros, reserved('tokens'), reserved(line.currency)}) do
    table.insert(reply, value)
  end
end
return reply
