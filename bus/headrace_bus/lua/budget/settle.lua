#!lua flags=allow-oom
-- include: keys ledger
-- ARGV: uid, attempt, tokens ('' for as many as were reserved), micros, currency; then of each line: line, start_ms,
-- spent tokens and micros as told
-- Reply: 1, or 0 where nothing is reserved for that attempt
-- No request id: what is settled is reserved no more, so doing it again changes nothing.
if #ARGV > 5 + 4 * LINES_MAX then return redis.error_reply('ERR more budgets than are kept') end
local uid, attempt = ARGV[1], attempt_number(ARGV[2])
if not is_name(uid) then return redis.error_reply('ERR no attempt of that name') end
local held = reservation(uid)
if not held or held.attempt ~= attempt then return 0 end
local spent = {tokens = held.tokens, micros = held.micros, currency = held.currency}
if ARGV[3] ~= '' then
  spent = {tokens = figure(ARGV[3]), micros = figure(ARGV[4]), currency = ARGV[5]}
end
for i = 6, #ARGV, 4 do
  local line = opened(ARGV[i], number(ARGV[i + 1], 0), ARGV[i + 2], ARGV[i + 3])
  line.tokens = line.tokens + spent.tokens
  if line.currency == spent.currency then line.micros = line.micros + spent.micros end
  keep(line)
end
let_go(uid, held)
return 1
