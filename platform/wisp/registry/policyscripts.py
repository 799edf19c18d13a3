"""The operator's documents and the nodes that follow them, as Lua scripts of the kind that `scripts` describes."""

from __future__ import annotations

from wisp.registry.scripts import script

REMEMBER = """
-- The newest changes of a document stay, `most` of them.
local function remember(history, name, number, record, most)
  redis.call('HSET', history, name .. '@' .. string.format('%d', number), record)
  local numbers = {}
  for _, field in ipairs(of_name(history, name)) do numbers[#numbers + 1] = tonumber(string.sub(field, #name + 2)) end
  table.sort(numbers)
  for index = 1, #numbers - most do
    redis.call('HDEL', history, name .. '@' .. string.format('%d', numbers[index]))
  end
end
"""

SEED_POLICIES = script(f"""
-- KEYS: policies, policy-generation, policy-history
-- ARGV: changes to retain, then for each document its name and its record without its generation
-- ok, seeded (1, or 0 if there were documents)

{REMEMBER}
if redis.call('EXISTS', KEYS[1]) == 1 then return {{'ok', 0}} end
local number = tonumber(redis.call('GET', KEYS[2]) or '0') + 1
for index = 2, #ARGV, 2 do
  local record = numbered('generation', number, ARGV[index + 1])
  redis.call('HSET', KEYS[1], ARGV[index], record)
  remember(KEYS[3], ARGV[index], number, record, tonumber(ARGV[1]))
end
changed(KEYS[2], '', 'policy', '')
return {{'ok', 1}}
""")

PUT_POLICY = script(f"""
-- KEYS: policies, policy-generation, policy-history
-- ARGV: document, digests of which it must have one now ('' for no matter, '*' for any), digest,
--       record without its generation, changes to retain
-- ok, changed (1, or 0 if it said so already), record | stale

{REMEMBER}
local raw = redis.call('HGET', KEYS[1], ARGV[1])
local known = raw and unseal(raw)
local digest = known and known.digest or '-'
local listed = string.find(' ' .. ARGV[2] .. ' ', ' ' .. digest .. ' ', 1, true)
if ARGV[2] ~= '' and not listed and not (raw and ARGV[2] == '*') then return {{'stale'}} end
if digest == ARGV[3] then return {{'ok', 0, raw}} end
local number = tonumber(redis.call('GET', KEYS[2]) or '0') + 1
local record = numbered('generation', number, ARGV[4])
redis.call('HSET', KEYS[1], ARGV[1], record)
remember(KEYS[3], ARGV[1], number, record, tonumber(ARGV[5]))
changed(KEYS[2], '', 'policy', ARGV[1])
return {{'ok', 1, record}}
""")

RECORD_POLICY = script(f"""
-- KEYS: policy-generation, policy-history
-- ARGV: document, digest, record without its generation, changes to retain
-- ok, changed (1, or 0 if its newest change has this digest), record

{REMEMBER}
local newest = 0
for _, field in ipairs(of_name(KEYS[2], ARGV[1])) do
  newest = math.max(newest, tonumber(string.sub(field, #ARGV[1] + 2)))
end
local raw = newest > 0 and redis.call('HGET', KEYS[2], ARGV[1] .. '@' .. string.format('%d', newest))
local known = raw and unseal(raw)
if known and known.digest == ARGV[2] then return {{'ok', 0, raw}} end
local number = redis.call('INCR', KEYS[1])
local record = numbered('generation', number, ARGV[3])
remember(KEYS[2], ARGV[1], number, record, tonumber(ARGV[4]))
return {{'ok', 1, record}}
""")

READ_POLICIES = script("""
-- KEYS: policies, policy-generation
-- ARGV: (none)
-- ok, generation, array of: document, record, ...

return {'ok', tonumber(redis.call('GET', KEYS[2]) or '0'), redis.call('HGETALL', KEYS[1])}
""")

PULSE = script("""
-- KEYS: nodes, policy-generation
-- ARGV: node ('' only listens), generation that it acknowledges, milliseconds for which a node counts as live after it
--       was heard, milliseconds after which it is noted again that it was
-- ok, generation, array of: live node, generation that it acknowledged, ...

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function read(value)
  local acknowledged, heard = string.match(value or '', '^(%d+) (%d+)$')
  return acknowledged, tonumber(heard or '0')
end
if ARGV[1] ~= '' then
  local acknowledged, heard = read(redis.call('HGET', KEYS[1], ARGV[1]) or '')
  if acknowledged ~= ARGV[2] or now - heard >= tonumber(ARGV[4]) or now < heard then
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%d', now))
  end
end
local live, nodes = {}, redis.call('HGETALL', KEYS[1])
for index = 1, #nodes, 2 do
  local acknowledged, heard = read(nodes[index + 1])
  if not acknowledged or math.abs(now - heard) > tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], nodes[index])
  else
    live[#live + 1] = nodes[index]
    live[#live + 1] = acknowledged
  end
end
return {'ok', tonumber(redis.call('GET', KEYS[2]) or '0'), live}
""")
