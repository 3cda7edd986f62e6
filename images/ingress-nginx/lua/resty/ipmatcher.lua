-- Which networks an IP address is in, for IPv4 and IPv6.
--
--   local matcher, err = ipmatcher.new({ "10.0.0.0/8", "192.0.2.1", "2001:db8::/32" })
--   local is_in, err = matcher:match("2001:db8::1")   -- true or false; nil for what is no address
--
-- An IPv4 address mapped into IPv6 (::ffff:192.0.2.1) is that IPv4 address, as it is for
-- nginx. Host bits of a network are ignored: 10.1.2.3/8 is 10.0.0.0/8.
local byte, find, gmatch, match = string.byte, string.find, string.gmatch, string.match
local floor = math.floor

local _M = {}
local mt = { __index = _M }

-- An address is a table of its 16-bit groups: 2 for IPv4, 8 for IPv6.
local function parse_v4(text)
  local a, b, c, d = match(text, "^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$")
  if not a then
    return nil
  end
  for _, part in ipairs({ a, b, c, d }) do
    -- A leading 0 means octal to some, so it means nothing here.
    if tonumber(part) > 255 or (#part > 1 and byte(part) == 48) then
      return nil
    end
  end
  return { a * 256 + b, c * 256 + d }
end

-- Groups between colons; the last may be an IPv4 address.
local function parse_groups(text, into)
  if text == "" then
    return true
  end
  if find(text, "^:") or find(text, ":$") then
    return false
  end
  local last
  for group in gmatch(text, "[^:]+") do
    if last then
      return false -- an IPv4 address, and more after it
    end
    if match(group, "^%x%x?%x?%x?$") then
      into[#into + 1] = tonumber(group, 16)
    else
      last = parse_v4(group)
      if not last then
        return false
      end
      into[#into + 1], into[#into + 2] = last[1], last[2]
    end
  end
  return not find(text, "::", 1, true)
end

local function parse_v6(text)
  local front, back = text, nil
  local from, to = find(text, "::", 1, true)
  if from then
    front, back = text:sub(1, from - 1), text:sub(to + 1)
  end
  local groups, tail = {}, {}
  if not parse_groups(front, groups) or (back and not parse_groups(back, tail)) then
    return nil
  end
  if back then
    -- "::" stands for at least one group; an IPv4 address is at the very end only.
    if #groups + #tail > 7 or find(front, ".", 1, true) then
      return nil
    end
    while #groups + #tail < 8 do
      groups[#groups + 1] = 0
    end
    for _, group in ipairs(tail) do
      groups[#groups + 1] = group
    end
  end
  if #groups ~= 8 then
    return nil
  end
  return groups
end

local function mapped(groups)
  for i = 1, 5 do
    if groups[i] ~= 0 then
      return false
    end
  end
  return groups[6] == 0xffff
end

local function parse(text)
  if type(text) ~= "string" then
    return nil
  end
  local groups = parse_v4(text) or (find(text, ":", 1, true) and parse_v6(text))
  return groups or nil
end

-- The first bits of an address, as a string that is the same for all that share them.
local function prefix(groups, bits)
  local out = {}
  for i = 1, math.ceil(bits / 16) do
    local group = groups[i]
    local unused = 16 * i - bits
    if unused > 0 then
      group = floor(group / 2 ^ unused) * 2 ^ unused
    end
    out[i] = group
  end
  return table.concat(out, ":")
end

local function parse_network(text)
  if type(text) ~= "string" then
    return nil
  end
  local address, bits = match(text, "^([^/]+)/(%d%d?%d?)$")
  local groups = parse(address or text)
  if not groups or (not address and find(text, "/", 1, true)) then
    return nil
  end
  bits = tonumber(bits) or #groups * 16
  if bits > #groups * 16 then
    return nil
  end
  if #groups == 8 and bits >= 96 and mapped(groups) then
    return { groups[7], groups[8] }, bits - 96
  end
  return groups, bits
end

-- new gives a matcher of the networks, a list of addresses and of CIDRs; or nil and what
-- is wrong with one of them.
function _M.new(networks)
  -- For each family (by number of groups): prefixes by length, and the lengths in use.
  local families = { [2] = { lengths = {}, by_length = {} }, [8] = { lengths = {}, by_length = {} } }
  for _, text in ipairs(networks) do
    local groups, bits = parse_network(text)
    if not groups then
      return nil, "not an IP address or network: " .. tostring(text)
    end
    local family = families[#groups]
    if not family.by_length[bits] then
      family.by_length[bits] = {}
      family.lengths[#family.lengths + 1] = bits
    end
    family.by_length[bits][prefix(groups, bits)] = true
  end
  return setmetatable({ families = families }, mt)
end

-- match tells whether the address is in one of the networks. What is no address is in
-- none, and an error.
function _M.match(self, text)
  local groups = parse(text)
  if not groups then
    return nil, "not an IP address: " .. tostring(text)
  end
  if #groups == 8 and mapped(groups) then
    groups = { groups[7], groups[8] }
  end
  local family = self.families[#groups]
  for _, bits in ipairs(family.lengths) do
    if family.by_length[bits][prefix(groups, bits)] then
      return true
    end
  end
  return false
end

return _M
