"""The one script behind quotas: it settles what a node has used, and leases to it what it may use next.

All of a tenant's quota state is one hash of its slot:

    tokens, at        the token bucket, in millionths of a request, and when that was, in the server's microseconds
    20780/3           what was used of resource 3 on day 20780 since 1970, UTC
    @holder           a node's lease: number, end, then for each resource what it holds, what it said it has
                      used since it started, and whether it got less than it wanted

Time is the server's alone. It may jump: back, and nothing is refilled for a while and leases still end within their
length; forward, and the bucket is full at most, and leases end early, so that their nodes may hold for one length more
what others are given by then.
"""

from __future__ import annotations

from wisp.registry.connection import Script
from wisp.registry.keys import EVENTS

LEASE = Script(
    """
-- KEYS: tenant, quotas
-- ARGV: holder, number of this lease, its length in microseconds, requests per second, then in one word with spaces
--       for each resource (requests, inflight, fuel, nn, bytes in, bytes out):
--       limit or -1 for none, keep, want, spent, acknowledged
-- ok, and in one word: nodes with a lease, seconds left of the day, then for each resource: granted, used,
--     contended (1 or 0) | no_tenant | stale

if redis.call('EXISTS', KEYS[1]) == 0 then return {'no_tenant'} end
local RESOURCES, SECOND, DAY, FORGET = 6, 1000000, 86400, 60
local HELD, SPENT, SHORT = 2, 2 + RESOURCES, 2 + 2 * RESOURCES
local clock = redis.call('TIME')
local now = clock[1] * SECOND + clock[2]
local today = math.floor(clock[1] / DAY)
local number, length, rate = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local asks = {}
for word in string.gmatch(ARGV[5], '%S+') do asks[#asks + 1] = word end
local function asked(resource, position) return tonumber(asks[5 * (resource - 1) + position]) end

local plain, nodes, mine = {}, 1, nil
local held_by_others, short_elsewhere = {}, {}
for resource = 1, RESOURCES do held_by_others[resource] = 0 end
local stored = redis.call('HGETALL', KEYS[2])
for index = 1, #stored, 2 do
  local field, value = stored[index], stored[index + 1]
  if string.sub(field, 1, 1) ~= '@' then
    local day = string.match(field, '^(%d+)/')
    if day and math.abs(tonumber(day) - today) > 7 then
      redis.call('HDEL', KEYS[2], field)
    else
      plain[field] = tonumber(value)
    end
  else
    local lease = {}
    for word in string.gmatch(value, '%S+') do lease[#lease + 1] = tonumber(word) end
    if field == '@' .. ARGV[1] then
      mine = lease
    elseif lease[2] + FORGET * SECOND < now then
      redis.call('HDEL', KEYS[2], field)
    elseif lease[2] > now then
      if lease[2] > now + length and length > 0 then -- the server's clock went back: it still ends within its length
        lease[2] = now + length
        for position = 1, #lease do lease[position] = string.format('%.0f', lease[position]) end
        redis.call('HSET', KEYS[2], field, table.concat(lease, ' '))
      end
      nodes = nodes + 1
      for resource = 1, RESOURCES do
        held_by_others[resource] = held_by_others[resource] + tonumber(lease[HELD + resource])
        if tonumber(lease[SHORT + resource]) == 1 then short_elsewhere[resource] = true end
      end
    end
  end
end
if mine and number <= mine[1] then return {'stale'} end

local lease, answer = {ARGV[2], string.format('%.0f', now + length)}, {nodes, DAY - clock[1] % DAY}
for resource = 1, RESOURCES do
  local limit, keep, want = asked(resource, 1), asked(resource, 2), asked(resource, 3)
  local spent = math.max(0, asked(resource, 4) - (mine and mine[SPENT + resource] or asked(resource, 5)))
  local room, used, share
  if limit < 0 then
    room, used = want, 0
  elseif resource == 1 then
    -- What nodes hold counts as in the bucket, so that bucket and leases together never exceed the burst.
    local tokens = plain.tokens or limit * SECOND
    tokens = tokens + ((mine and mine[HELD + 1] or 0) - spent) * SECOND
    local elapsed = math.min(math.max(now - (plain.at or now), 0), 3600 * SECOND)
    tokens = math.max(tokens, -limit * SECOND) + rate * elapsed
    tokens = math.min(tokens, (limit - held_by_others[1]) * SECOND)
    plain.tokens = tokens
    room = math.floor(tokens / SECOND)
    used = limit - room
  elseif resource == 2 then
    used = held_by_others[2]
    room = limit - used
    share = math.ceil(limit / nodes)
  else
    local field = today .. '/' .. resource
    used = plain[field] or 0
    if spent > 0 then used = redis.call('HINCRBY', KEYS[2], field, string.format('%.0f', spent)) end
    room = limit - used - held_by_others[resource]
  end
  room = math.max(0, room)
  local most = math.max(want, keep)
  if short_elsewhere[resource] then most = math.min(most, math.max(keep, share or math.ceil(room / nodes))) end
  local granted = math.min(most, room)
  if resource == 1 and limit >= 0 then plain.tokens = plain.tokens - granted * SECOND end
  if resource == 2 and want > granted and nodes > 1 and not (mine and mine[SHORT + 2] == 1) then
    -- Not a change of the slot: a request to those that hold more than they use.
    local tenant = string.match(KEYS[1], '{(.-)}')
    redis.call('PUBLISH', EVENTS, cjson.encode({tenant = tenant, kind = 'slots', name = ARGV[1], generation = 0}))
  end
  lease[HELD + resource] = string.format('%.0f', granted)
  lease[SPENT + resource] = asks[5 * (resource - 1) + 4]
  lease[SHORT + resource] = want > granted and 1 or 0
  answer[#answer + 1] = string.format('%.0f', granted)
  answer[#answer + 1] = string.format('%.0f', used)
  answer[#answer + 1] = short_elsewhere[resource] and 1 or 0
end
redis.call('HSET', KEYS[2], 'tokens', string.format('%.0f', plain.tokens or 0), 'at', string.format('%.0f', now),
  '@' .. ARGV[1], table.concat(lease, ' '))
redis.call('EXPIRE', KEYS[2], 8 * DAY)
return {'ok', table.concat(answer, ' ')}
""".strip().replace("EVENTS", f"'{EVENTS}'")
    + "\n"
)
