#!lua flags=allow-oom
-- include: keys ledger
-- ARGV: uid, attempt, tokens, micros, currency, ends_ms, '1' to refuse nothing; then of each line: line, start_ms, spent
-- tokens and micros as told, bounds of tokens and micros ('' for none)
-- Reply: 0, or number of the line that has no room, its spent tokens and micros, those reserved
-- No request id: the same attempt is reserved once. allow-oom: it is the enqueue after it that is refused.
if #ARGV > 7 + 6 * LINES_MAX then return redis.error_reply('ERR more budgets than are kept') end
local uid, attempt = ARGV[1], attempt_number(ARGV[2])
if not is_name(uid) or attempt == 0 then return redis.error_reply('ERR no attempt of that name') end
local tokens, micros, currency = figure(ARGV[3]), figure(ARGV[4]), ARGV[5]
expire(now_ms())
local held = reservation(uid)
if held and held.attempt == attempt then return {0} end
-- An earlier attempt's that nobody settled: it was taken back before anybody began with it.
if held then let_go(uid, held) end
local lines = {}
for i = 8, #ARGV, 6 do
  local line = opened(ARGV[i], number(ARGV[i + 1], 0), ARGV[i + 2], ARGV[i + 3])
  local cost = line.currency == currency and micros or 0
  local full = ARGV[i + 4] ~= '' and line.tokens + reserved('tokens') + tokens > figure(ARGV[i + 4])
  if ARGV[i + 5] ~= '' and line.currency == currency then
    full = full or line.micros + reserved(line.currency) + cost > figure(ARGV[i + 5])
  end
  keep(line)
  if full and ARGV[7] ~= '1' then
    return {(i - 8) / 6 + 1, line.tokens, line.micros, reserved('tokens'), reserved(line.currency)}
  end
end
hold(uid, attempt, tokens, micros, currency, shown(number(ARGV[6], 0)))
return {0}
