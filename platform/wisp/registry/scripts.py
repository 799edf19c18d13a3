"""Every change within one slot, as a Lua script: it happens whole or not at all, and announces itself.

A script checks all that it needs before its first write (Redis does not undo the writes of a script that fails) and
answers with an array: `ok` and its results, or the reason why it changed nothing (`refusals.accepted`). Scripts are
written for Redis 6.2 and later: no functions, effects replication.
"""

from __future__ import annotations

from wisp.registry.codec import SEAL_CHARS
from wisp.registry.connection import Script
from wisp.registry.keys import EVENTS

PRELUDE = f"""
local function seal(body)
  return string.sub(redis.sha1hex(body), 1, {SEAL_CHARS}) .. body
end
-- The decoded record, or nil when its checksum does not fit: a damaged record is never sealed anew.
local function unseal(raw)
  local body = string.sub(raw, {SEAL_CHARS + 1})
  if seal(body) ~= raw then return nil end
  return cjson.decode(body)
end
-- A record that lacks one number, with it: both are JSON objects.
local function numbered(field, number, body)
  return seal('{{"' .. field .. '":' .. string.format('%d', number) .. ',' .. string.sub(body, 2))
end
local function changed(generation, tenant, kind, name)
  local number = redis.call('INCR', generation)
  redis.call('PUBLISH', '{EVENTS}',
    cjson.encode({{tenant = tenant, kind = kind, name = name, generation = number}}))
  return number
end
-- Whether the present revision is one of those listed: '' is no matter, '*' any.
local function matches(expected, revision)
  local listed = ' ' .. expected .. ' '
  return expected == '' or expected == '*' or string.find(listed, ' ' .. string.format('%d', revision) .. ' ', 1, true)
end
-- The fields of a hash that begin with a name and '@', which no name contains.
local function of_name(key, name)
  local found = {{}}
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, #name + 1) == name .. '@' then found[#found + 1] = field end
  end
  return found
end
-- Whether a model's latest version has one of the digests listed: '' is no matter, '*' any.
local function latest_matches(expected, models, name)
  if expected == '' then return true end
  local latest, found = 0, nil
  for _, field in ipairs(of_name(models, name)) do
    local number = tonumber(string.sub(field, #name + 2))
    if number > latest then latest, found = number, field end
  end
  if not found or expected == '*' then return found ~= nil end
  local model = unseal(redis.call('HGET', models, found))
  return model and string.find(' ' .. expected .. ' ', ' ' .. model.digest .. ' ', 1, true)
end
local function drop(key, name)
  for _, field in ipairs(of_name(key, name)) do redis.call('HDEL', key, field) end
end
"""


def script(text: str) -> Script:
    """The contract stays first; the shared functions follow it."""
    contract, _, body = text.strip().partition("\n\n")
    return Script(f"{contract}\n{PRELUDE}\n{body}\n")


CREATE_TENANT = script("""
-- KEYS: tenant, generation, keys
-- ARGV: tenant name, tenant record without its revision, then of its first key, if it gets one: id, record
-- ok, tenant record | exists

if redis.call('EXISTS', KEYS[1]) == 1 then return {'exists'} end
-- Tenths of milliseconds, not 1: a tenant that is made again never has a generation that the former had, which has
-- changed less than once in each. More digits than these 14 the encoder would round.
local now = redis.call('TIME')
redis.call('SET', KEYS[2], string.format('%d%04d', now[1], math.floor(now[2] / 100)))
if ARGV[3] then redis.call('HSET', KEYS[3], ARGV[3], ARGV[4]) end
local record = numbered('revision', changed(KEYS[2], ARGV[1], 'tenant', ARGV[1]), ARGV[2])
redis.call('SET', KEYS[1], record)
return {'ok', record}
""")

CHANGE_TENANT = script("""
-- KEYS: tenant, generation
-- ARGV: tenant name, expected revisions, new class or '', suspended ('1', '0' or '' to leave it)
-- ok, tenant record | no_tenant | damaged | stale

local raw = redis.call('GET', KEYS[1])
if not raw then return {'no_tenant'} end
local tenant = unseal(raw)
if not tenant then return {'damaged'} end
if not matches(ARGV[2], tenant.revision or 0) then return {'stale'} end
if ARGV[3] ~= '' then tenant.class_name = ARGV[3] end
if ARGV[4] ~= '' then tenant.suspended = ARGV[4] == '1' end
tenant.revision = changed(KEYS[2], ARGV[1], ARGV[4] == '1' and 'tenant-suspended' or 'tenant', ARGV[1])
raw = seal(cjson.encode(tenant))
redis.call('SET', KEYS[1], raw)
return {'ok', raw}
""")

DELETE_TENANT = script("""
-- KEYS: tenant, generation, then every other key of the slot
-- ARGV: tenant name, expected revisions
-- ok | no_tenant | stale

local raw = redis.call('GET', KEYS[1])
if not raw then return {'no_tenant'} end
local tenant = unseal(raw)
if tenant and not matches(ARGV[2], tenant.revision or 0) then return {'stale'} end
changed(KEYS[2], ARGV[1], 'tenant', ARGV[1])
redis.call('UNLINK', unpack(KEYS))
return {'ok'}
""")

PUT_KEY = script("""
-- KEYS: tenant, keys, generation
-- ARGV: tenant name, key id, key record
-- ok | no_tenant | exists

if redis.call('EXISTS', KEYS[1]) == 0 then return {'no_tenant'} end
if redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3]) == 0 then return {'exists'} end
changed(KEYS[3], ARGV[1], 'key', ARGV[2])
return {'ok'}
""")

DELETE_KEY = script("""
-- KEYS: keys, generation
-- ARGV: tenant name, key id
-- ok | no_key

if redis.call('HDEL', KEYS[1], ARGV[2]) == 0 then return {'no_key'} end
changed(KEYS[2], ARGV[1], 'key', ARGV[2])
return {'ok'}
""")

DELETE_MODEL = script("""
-- KEYS: models, model-digests, pins, generation
-- ARGV: tenant name, model name, expected digests of its latest version
-- ok | no_model | stale | in_use, function@number

if #of_name(KEYS[1], ARGV[2]) == 0 then return {'no_model'} end
if not latest_matches(ARGV[3], KEYS[1], ARGV[2]) then return {'stale'} end
local pins = redis.call('HGETALL', KEYS[3])
for index = 1, #pins, 2 do
  for pin in string.gmatch(pins[index + 1], '%S+') do
    if pin == 'own/' .. ARGV[2] then return {'in_use', pins[index]} end
  end
end
drop(KEYS[1], ARGV[2])
drop(KEYS[2], ARGV[2])
changed(KEYS[4], ARGV[1], 'model', ARGV[2])
return {'ok'}
""")

ANNOUNCE_REFERENCE = script("""
-- KEYS: models, references
-- ARGV: model@version, announced reference field
-- ok | no_model, model@version

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'no_model', ARGV[1]} end
redis.call('HSET', KEYS[2], ARGV[2], redis.call('TIME')[1])
return {'ok'}
""")

SETTLE_REFERENCE = script("""
-- KEYS: references
-- ARGV: reference field, token of its announcement
-- ok

redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HDEL', KEYS[1], ARGV[1] .. '#' .. ARGV[2])
return {'ok'}
""")

READ_REFERENCES = script("""
-- KEYS: references
-- ARGV: (none)
-- ok, the server's Unix seconds, array of: reference field, value, ...

return {'ok', redis.call('TIME')[1], redis.call('HGETALL', KEYS[1])}
""")

DROP_REFERENCES = script("""
-- KEYS: references
-- ARGV: reference field, value, ... (one that has another value by now stays)
-- ok

for index = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[index]) == ARGV[index + 1] then redis.call('HDEL', KEYS[1], ARGV[index]) end
end
return {'ok'}
""")

DELETE_SHARED_MODEL = script("""
-- KEYS: models, model-digests, references, bearers, generation
-- ARGV: model name, expected digests of its latest version
-- ok | no_model | stale | in_use, tenant/function

if #of_name(KEYS[1], ARGV[1]) == 0 then return {'no_model'} end
if not latest_matches(ARGV[2], KEYS[1], ARGV[1]) then return {'stale'} end
local prefix = ARGV[1] .. ' '
for _, field in ipairs(redis.call('HKEYS', KEYS[3])) do
  if string.sub(field, 1, #prefix) == prefix then return {'in_use', string.match(field, '^[^#]+', #prefix + 1)} end
end
drop(KEYS[1], ARGV[1])
drop(KEYS[2], ARGV[1])
drop(KEYS[4], ARGV[1])
changed(KEYS[5], '', 'model', ARGV[1])
return {'ok'}
""")
