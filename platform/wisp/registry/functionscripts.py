"""A function, its versions, its traffic and its history, as Lua scripts of the kind that `scripts` describes.

With every change a function's record takes the slot's next generation as its revision, and the history gets a row. The
history is a ring: row n of a function stands in the field function@(n mod RETAINED_CHANGES).
"""

from __future__ import annotations

from typing import Final

from wisp.registry.scripts import script
from wisp.registry.storagescripts import STORAGE

RETAINED_CHANGES: Final = 100
"""Rows of one function's history."""
RETAINED_VERSIONS: Final = 64
"""Of one function: beyond it the oldest that does not answer is removed."""
GUARD_STEPS: Final = 60
"""A guard's window slides by at most a sixtieth of itself."""

FUNCTION = f"""
local function place(name, number)
  return name .. '@' .. string.format('%d', number)
end
-- The numbers of a function's versions that answer: those of its traffic split, or the active one alone.
local function answering(state)
  if type(state.traffic) ~= 'table' then return {{state.active ~= cjson.null and state.active or nil}} end
  local numbers = {{}}
  for index, share in ipairs(state.traffic.split) do numbers[index] = share.version end
  return numbers
end
local function answers(state, number)
  for _, each in ipairs(answering(state)) do
    if each == number then return true end
  end
  return state.active == number
end
-- Takes a version off the record, and all that stands beside it.
local function remove(state, number, versions, contents, pins)
  local left = {{}}
  for _, each in ipairs(state.versions) do
    if each ~= number then left[#left + 1] = each end
  end
  state.versions, state.latest = left, left[#left]
  redis.call('HDEL', versions, place(state.name, number))
  redis.call('HDEL', pins, place(state.name, number))
  for _, field in ipairs(of_name(contents, state.name)) do
    if tonumber(redis.call('HGET', contents, field)) == number then redis.call('HDEL', contents, field) end
  end
end
-- A row of the history, as the function stands when it is written.
local function note(history, state, action, version, author, message)
  state.changes = (state.changes or 0) + 1
  local row = seal(cjson.encode({{number = state.changes, revision = state.revision, action = action,
    version = version or cjson.null, active = state.active, traffic = state.traffic or cjson.null, author = author,
    message = message, at = tonumber(redis.call('TIME')[1])}}))
  redis.call('HSET', history, place(state.name, state.changes % {RETAINED_CHANGES}), row)
  return row
end
-- Writes the record; what was counted for a traffic that is no more goes.
local function keep(functions, guards, state)
  local raw = seal(cjson.encode(state))
  redis.call('HSET', functions, state.name, raw)
  if type(state.traffic) ~= 'table' or state.traffic.id == state.revision then
    redis.call('HDEL', guards, state.name)
  end
  return raw
end
"""

PUT_VERSION = script(f"""
-- KEYS: tenant, functions, numbers, versions, contents, pins, models, generation, history, guards, sizes
-- ARGV: tenant name, function name, content digest, version record without its number, activate ('1' or '0'),
--       now in Unix seconds, pins ("own/<model> shared/<model> ..."), own models needed ("<model>@<version> ..."),
--       expected revisions, author, message, its blobs ("digest bytes ..."), most bytes stored and most functions,
--       each '' where there is no such limit
-- ok, created (1 or 0), version record, function record | no_tenant | no_model, model@version | damaged | stale
--     | too_many, limit used | no_storage, limit used more

{FUNCTION}
{STORAGE}
if redis.call('EXISTS', KEYS[1]) == 0 then return {{'no_tenant'}} end
for needed in string.gmatch(ARGV[8], '%S+') do
  if redis.call('HEXISTS', KEYS[7], needed) == 0 then return {{'no_model', needed}} end
end
local state = {{tenant = ARGV[1], name = ARGV[2], active = cjson.null, suspended = false, latest = 0,
               versions = {{}}, created_at = tonumber(ARGV[6]), revision = 0, changes = 0, traffic = cjson.null}}
local stored = redis.call('HGET', KEYS[2], ARGV[2])
if stored then state = unseal(stored) end
if not state then return {{'damaged'}} end
if ARGV[9] ~= '' and not (stored and matches(ARGV[9], state.revision or 0)) then return {{'stale'}} end

local content = ARGV[2] .. '@' .. ARGV[3]
local known = redis.call('HGET', KEYS[5], content)
local number, record
if known then
  number = tonumber(known)
  record = redis.call('HGET', KEYS[4], ARGV[2] .. '@' .. known)
  local version = record and unseal(record)
  if not version or version.content_digest ~= ARGV[3] then return {{'damaged'}} end
else
  number = tonumber(redis.call('HGET', KEYS[3], ARGV[2]) or '0') + 1
  local field = place(ARGV[2], number)
  if number <= state.latest or redis.call('HEXISTS', KEYS[4], field) == 1 then return {{'damaged'}} end
  local functions = redis.call('HLEN', KEYS[2])
  if not stored and ARGV[14] ~= '' and functions >= tonumber(ARGV[14]) then
    return {{'too_many', ARGV[14] .. ' ' .. functions}}
  end
  local refused = beyond(ARGV[13], KEYS[4], KEYS[7], KEYS[11], ARGV[12])
  if refused then return refused end
  record = numbered('number', number, ARGV[4])
  redis.call('HSET', KEYS[3], ARGV[2], number)
  redis.call('HSET', KEYS[4], field, record)
  redis.call('HSET', KEYS[5], content, number)
  if ARGV[7] ~= '' then redis.call('HSET', KEYS[6], field, ARGV[7]) end
  state.latest = number
  state.versions[#state.versions + 1] = number
end
local activated = ARGV[5] == '1' and (state.active ~= number or type(state.traffic) == 'table')
if activated then state.active, state.traffic = number, cjson.null end
if activated or not known then
  state.revision = changed(KEYS[8], ARGV[1], 'function', ARGV[2])
  note(KEYS[9], state, known and 'activate' or 'upload', number, ARGV[10], ARGV[11])
  while #state.versions > {RETAINED_VERSIONS} do
    local oldest
    for _, each in ipairs(state.versions) do
      if not answers(state, each) and each ~= number then oldest = each break end
    end
    remove(state, oldest, KEYS[4], KEYS[5], KEYS[6])
    note(KEYS[9], state, 'prune', oldest, 'platform', 'more than {RETAINED_VERSIONS} versions')
  end
  stored = keep(KEYS[2], KEYS[10], state)
end
return {{'ok', known and 0 or 1, record, stored}}
""")

CHANGE_FUNCTION = script(f"""
-- KEYS: functions, versions, generation, history, guards
-- ARGV: tenant name, function name, expected revisions, author, message, then one of
--       'activate', number | 'suspend' | 'resume' | 'traffic', the traffic as JSON without its id
-- ok, function record | no_function | no_version, number | damaged | stale

{FUNCTION}
local raw = redis.call('HGET', KEYS[1], ARGV[2])
if not raw then return {{'no_function'}} end
local state = unseal(raw)
if not state then return {{'damaged'}} end
if not matches(ARGV[3], state.revision or 0) then return {{'stale'}} end
local action, version = ARGV[6], nil
if action == 'activate' then
  version = tonumber(ARGV[7])
  if redis.call('HEXISTS', KEYS[2], ARGV[2] .. '@' .. ARGV[7]) == 0 then return {{'no_version', ARGV[7]}} end
  if state.active == version and type(state.traffic) ~= 'table' then return {{'ok', raw}} end
  state.active, state.traffic = version, cjson.null
elseif action == 'traffic' then
  local traffic = cjson.decode(ARGV[7])
  for _, share in ipairs(traffic.split) do
    local number = string.format('%d', share.version)
    if redis.call('HEXISTS', KEYS[2], ARGV[2] .. '@' .. number) == 0 then return {{'no_version', number}} end
  end
  state.active, state.traffic = traffic.split[1].version, traffic
else
  if state.suspended == (action == 'suspend') then return {{'ok', raw}} end
  state.suspended = action == 'suspend'
end
state.revision = changed(KEYS[3], ARGV[1], action == 'suspend' and 'function-suspended' or 'function', ARGV[2])
if action == 'traffic' then state.traffic.id = state.revision end
note(KEYS[4], state, action, version, ARGV[4], ARGV[5])
return {{'ok', keep(KEYS[1], KEYS[5], state)}}
""")

DELETE_VERSION = script(f"""
-- KEYS: functions, versions, contents, pins, generation, history, guards
-- ARGV: tenant name, function name, number, content digests of which it must have one ('' for no matter, '*' for any),
--       author
-- ok | no_function | no_version | answers | only | damaged | stale

{FUNCTION}
local raw = redis.call('HGET', KEYS[1], ARGV[2])
if not raw then return {{'no_function'}} end
local state = unseal(raw)
if not state then return {{'damaged'}} end
local number = tonumber(ARGV[3])
local record = redis.call('HGET', KEYS[2], ARGV[2] .. '@' .. ARGV[3])
if not record then return {{'no_version'}} end
local version = unseal(record)
local listed = ' ' .. ARGV[4] .. ' '
if ARGV[4] ~= '' and ARGV[4] ~= '*' then
  if not version or not string.find(listed, ' ' .. version.content_digest .. ' ', 1, true) then return {{'stale'}} end
end
if answers(state, number) then return {{'answers'}} end
if #state.versions == 1 then return {{'only'}} end
remove(state, number, KEYS[2], KEYS[3], KEYS[4])
state.revision = changed(KEYS[5], ARGV[1], 'function', ARGV[2])
note(KEYS[6], state, 'delete', number, ARGV[5], '')
keep(KEYS[1], KEYS[7], state)
return {{'ok'}}
""")

DELETE_FUNCTION = script("""
-- KEYS: functions, guards, versions, contents, pins, history, generation
-- ARGV: tenant name, function name, expected revisions
-- ok | no_function | stale

local raw = redis.call('HGET', KEYS[1], ARGV[2])
if not raw then return {'no_function'} end
local state = unseal(raw)
if state and not matches(ARGV[3], state.revision or 0) then return {'stale'} end
for index = 1, 2 do redis.call('HDEL', KEYS[index], ARGV[2]) end
for index = 3, 6 do drop(KEYS[index], ARGV[2]) end
changed(KEYS[7], ARGV[1], 'function-deleted', ARGV[2])
return {'ok'}
""")

READ_ENTRY = script(f"""
-- KEYS: tenant, functions, versions
-- ARGV: function name, number of the one version that is wanted, or '' for those that answer
-- ok, tenant record or nil, function record or nil, array of version records (without the wanted one: none) | damaged

{FUNCTION}
local tenant = redis.call('GET', KEYS[1])
local raw = redis.call('HGET', KEYS[2], ARGV[1])
if not tenant or not raw then return {{'ok', tenant, raw, {{}}}} end
if ARGV[2] ~= '' then
  return {{'ok', tenant, raw, {{redis.call('HGET', KEYS[3], ARGV[1] .. '@' .. ARGV[2]) or nil}}}}
end
local state = unseal(raw)
if not state then return {{'damaged'}} end
local found = {{}}
for index, number in ipairs(answering(state)) do
  found[index] = redis.call('HGET', KEYS[3], place(ARGV[1], number))
  if not found[index] then return {{'damaged'}} end
end
return {{'ok', tenant, raw, found}}
""")

GUARD_TRAFFIC = script(f"""
-- KEYS: functions, generation, history, guards
-- ARGV: tenant name, function name, id of the traffic that was counted, then for each candidate its number, the
--       requests and the errors that it had since the last time
-- ok, row of the history if the function went back to its stable version now, else nothing | damaged

{FUNCTION}
local raw = redis.call('HGET', KEYS[1], ARGV[2])
if not raw then return {{'ok'}} end
local state = unseal(raw)
if not state then return {{'damaged'}} end
local traffic = type(state.traffic) == 'table' and state.traffic or {{}}
local guard = traffic.guard
if type(guard) ~= 'table' or traffic.id ~= tonumber(ARGV[3]) then return {{'ok'}} end
local step = math.ceil(guard.window_s / {GUARD_STEPS})
local present = math.floor(tonumber(redis.call('TIME')[1]) / step)
local oldest = present - math.ceil(guard.window_s / step)

local tally = cjson.decode(redis.call('HGET', KEYS[4], ARGV[2]) or '{{}}')
for index = 4, #ARGV, 3 do
  local rows = tally[ARGV[index]] or {{}}
  local row = rows[string.format('%d', present)] or {{0, 0}}
  rows[string.format('%d', present)] = {{row[1] + ARGV[index + 1], row[2] + ARGV[index + 2]}}
  tally[ARGV[index]] = rows
end
for candidate, rows in pairs(tally) do
  local requests, errors = 0, 0
  for moment, row in pairs(rows) do
    if tonumber(moment) <= oldest then
      rows[moment] = nil
    else
      requests, errors = requests + row[1], errors + row[2]
    end
  end
  if requests >= guard.min_requests and errors * 1000000 > requests * guard.max_errors_per_million then
    state.traffic = cjson.null
    state.revision = changed(KEYS[2], ARGV[1], 'function', ARGV[2])
    local why = string.format('%d of %d requests failed within %d s', errors, requests, guard.window_s)
    local change = note(KEYS[3], state, 'rollback', tonumber(candidate), 'guard', why)
    keep(KEYS[1], KEYS[4], state)
    return {{'ok', change}}
  end
end
redis.call('HSET', KEYS[4], ARGV[2], cjson.encode(tally))
return {{'ok'}}
""")
