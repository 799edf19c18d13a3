"""What a tenant stores, counted inside the scripts that add to it: so no two uploads can both take the last room.

The records are the truth. What each of them says of its blobs is kept beside them (`Kind.SIZES`): made where it is
missing, dropped with its record. So counting decodes no record twice, and what writes and deletes records needs not
know of it.
"""

from __future__ import annotations

from typing import Final

from wisp.registry.scripts import script

STORAGE: Final = """
-- What one record refers to, "digest bytes digest bytes ...", or nil when it is damaged.
local function blobs_of(raw)
  local record = unseal(raw)
  if not record then return nil end
  if record.digest then return record.digest .. ' ' .. string.format('%.0f', record.size_bytes) end
  local words = {record.module .. ' ' .. string.format('%.0f', record.module_bytes)}
  for _, file in ipairs(record.bundle) do
    words[#words + 1] = file.digest .. ' ' .. string.format('%.0f', file.size_bytes)
  end
  return table.concat(words, ' ')
end
-- Bytes of all blobs that the records in these hashes refer to, each once, and what they would be with some more.
local function stored_bytes(versions, models, sizes, more)
  local known, kept, counted, total = {}, {}, {}, 0
  local function count(words)
    for digest, bytes in string.gmatch(words, '(%S+) (%S+)') do
      if not counted[digest] then
        counted[digest] = true
        total = total + tonumber(bytes)
      end
    end
  end
  local flat = redis.call('HGETALL', sizes)
  for index = 1, #flat, 2 do known[flat[index]] = flat[index + 1] end
  for kind, key in pairs({version = versions, model = models}) do
    for _, field in ipairs(redis.call('HKEYS', key)) do
      local name = kind .. ' ' .. field
      local words = known[name]
      if not words then
        words = blobs_of(redis.call('HGET', key, field))
        if words then redis.call('HSET', sizes, name, words) end
      end
      kept[name] = true
      count(words or '')
    end
  end
  for name in pairs(known) do
    if not kept[name] then redis.call('HDEL', sizes, name) end
  end
  local before = total
  count(more)
  return before, total
end
-- nil, or the refusal of what would be stored beyond the limit ('' is none); what adds no byte is never refused.
local function beyond(limit, versions, models, sizes, more)
  if limit == '' then return nil end
  local before, after = stored_bytes(versions, models, sizes, more)
  if after <= tonumber(limit) or after == before then return nil end
  return {'no_storage', string.format('%s %.0f %.0f', limit, before, after - before)}
end
"""

PUT_MODEL = script(f"""
-- KEYS: models, model-digests, model-numbers, generation; for a tenant's model its tenant, versions and sizes too
-- ARGV: tenant name or '', model name, digest, model record without its version, its blob ("digest bytes"), most
--       bytes stored and most models, each '' where there is no such limit, expected digests of its latest version
-- ok, created (1 or 0), model record | no_tenant | stale | damaged | too_many, limit used | no_storage, limit used more

{STORAGE}
if KEYS[5] and redis.call('EXISTS', KEYS[5]) == 0 then return {{'no_tenant'}} end
if not latest_matches(ARGV[8], KEYS[1], ARGV[2]) then return {{'stale'}} end
local content = ARGV[2] .. '@' .. ARGV[3]
local known = redis.call('HGET', KEYS[2], content)
if known then
  local record = redis.call('HGET', KEYS[1], ARGV[2] .. '@' .. known)
  local model = record and unseal(record)
  if not model or model.digest ~= ARGV[3] then return {{'damaged'}} end
  return {{'ok', 0, record}}
end
local number = tonumber(redis.call('HGET', KEYS[3], ARGV[2]) or '0') + 1
local field = ARGV[2] .. '@' .. string.format('%d', number)
if redis.call('HEXISTS', KEYS[1], field) == 1 then return {{'damaged'}} end
if ARGV[7] ~= '' then
  local names, count = {{}}, 0
  for _, each in ipairs(redis.call('HKEYS', KEYS[1])) do
    local name = string.match(each, '^[^@]+')
    if not names[name] then
      names[name] = true
      count = count + 1
    end
  end
  if not names[ARGV[2]] and count >= tonumber(ARGV[7]) then return {{'too_many', ARGV[7] .. ' ' .. count}} end
end
local refused = beyond(ARGV[6], KEYS[6], KEYS[1], KEYS[7], ARGV[5])
if refused then return refused end
local record = numbered('version', number, ARGV[4])
redis.call('HSET', KEYS[3], ARGV[2], number)
redis.call('HSET', KEYS[1], field, record)
redis.call('HSET', KEYS[2], content, number)
changed(KEYS[4], ARGV[1], 'model', ARGV[2])
return {{'ok', 1, record}}
""")

READ_STORAGE = script(f"""
-- KEYS: tenant, versions, models, sizes
-- ARGV: blobs that might be added ("digest bytes ..."), most bytes stored, or ''
-- ok, bytes stored | no_storage, limit used more

{STORAGE}
if redis.call('EXISTS', KEYS[1]) == 0 then return {{'ok', '0'}} end
local refused = beyond(ARGV[2], KEYS[2], KEYS[3], KEYS[4], ARGV[1])
if refused then return refused end
local bytes = stored_bytes(KEYS[2], KEYS[3], KEYS[4], '')
return {{'ok', string.format('%.0f', bytes)}}
""")
