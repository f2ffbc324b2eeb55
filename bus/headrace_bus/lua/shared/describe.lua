-- An entry as inspect and returned tell it; what is longer than any transition writes is left out. The last field is the
-- failure's.
local FAILURE_MAX = 32768
-- All the others together.
local BESIDE_MAX = 9 * NAME_MAX

local function describe(uid)
  local entry = fields(uid, 'attempt', 'state', 'namespace', 'name', 'since', 'worker', 'claimed', 'reason', 'failure')
  if not entry[1] then return false end
  for i = 1, 9 do
    if not entry[i] or #entry[i] > (i == 9 and FAILURE_MAX or NAME_MAX) then entry[i] = '' end
  end
  return {uid, unpack(entry)}
end
