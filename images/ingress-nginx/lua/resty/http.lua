-- One HTTP/1.1 request with its whole answer, on nginx's own sockets: what the controller's
-- OCSP stapling asks for. Connections aren't kept, redirects aren't followed.
--
--   local client = http.new()
--   client:set_timeout(connect_ms, send_ms, read_ms)       -- the last ones as the first if left out
--   local parts, err = client:parse_uri("http://host/path?q")  -- { scheme, host, port, path with query }
--   local answer, err = client:request_uri(uri, { method =, headers =, body =, ssl_server_name = })
--   -- answer: { status = 200, headers = { name in lower case = value }, body = "…" }
local concat = table.concat
local find, format, lower, match = string.find, string.format, string.lower, string.match

local MOST_HEADERS = 100
local MOST_BODY = 1024 * 1024 -- bytes; an OCSP response has a few thousand

local _M = {}
local mt = { __index = _M }

function _M.new()
  return setmetatable({ timeouts = { 60000, 60000, 60000 } }, mt)
end

function _M.set_timeout(self, connect, send, read)
  self.timeouts = { connect, send or connect, read or connect }
end
_M.set_timeouts = _M.set_timeout

function _M.parse_uri(_, uri)
  local scheme, authority, rest = match(tostring(uri), "^([hH][tT][tT][pP][sS]?)://([^/?#]+)([^#]*)")
  if not scheme then
    return nil, "not an http or https URI: " .. tostring(uri)
  end
  scheme = lower(scheme)
  -- An IPv6 address should be in brackets, but needn't: then the last colon is the port's.
  local host, port = match(authority, "^(%[[%x:.]+%]):?(%d*)$")
  if not host then
    host, port = match(authority, "^(.-):(%d+)$")
  end
  if not host then
    host, port = authority, ""
  end
  if find(host, "[@%s%c]") or find(rest, "[%s%c]") or host == "" then
    return nil, "not an http or https URI: " .. tostring(uri)
  end
  port = tonumber(port) or (scheme == "https" and 443 or 80)
  if port > 65535 then
    return nil, "not a port: " .. port
  end
  if rest == "" or rest:sub(1, 1) == "?" then
    rest = "/" .. rest
  end
  return { scheme, host, port, rest }
end

local function request_text(host, port, path, params)
  local headers = { Host = port and format("%s:%d", host, port) or host, ["User-Agent"] = "nginx" }
  for name, value in pairs(params.headers or {}) do
    headers[name] = tostring(value)
  end
  headers.Connection = "close"
  if params.body then
    headers["Content-Length"] = tostring(#params.body)
  end
  local lines = { format("%s %s HTTP/1.1", params.method or "GET", path) }
  for name, value in pairs(headers) do
    if find(name, "[^%w-]") or find(value, "[\r\n%z]") then
      return nil, "header that can't be sent: " .. name
    end
    lines[#lines + 1] = name .. ": " .. value
  end
  lines[#lines + 1] = "\r\n"
  return concat(lines, "\r\n") .. (params.body or "")
end

local function read_headers(sock)
  local headers = {}
  for _ = 1, MOST_HEADERS do
    local line, err = sock:receive("*l")
    if not line then
      return nil, err
    end
    if line == "" then
      return headers
    end
    local name, value = match(line, "^([^:%s]+):%s*(.-)%s*$")
    if not name then
      return nil, "malformed header: " .. line
    end
    headers[lower(name)] = value
  end
  return nil, "too many headers"
end

local function read_chunks(sock)
  local chunks, size = {}, 0
  while true do
    local line, err = sock:receive("*l")
    if not line then
      return nil, err
    end
    local digits = match(line, "^%s*(%x+)%s*$") or match(line, "^%s*(%x+)%s*;")
    local length = digits and tonumber(digits, 16)
    if not length then
      return nil, "malformed chunk: " .. line
    end
    if length == 0 then
      break
    end
    size = size + length
    if size > MOST_BODY then
      return nil, "body is too large"
    end
    chunks[#chunks + 1], err = sock:receive(length)
    if err then
      return nil, err
    end
    local ends
    ends, err = sock:receive(2)
    if ends ~= "\r\n" then
      return nil, err or "malformed chunk"
    end
  end
  local _, err = read_headers(sock) -- the trailer
  if err then
    return nil, err
  end
  return concat(chunks)
end

local function read_body(sock, status, headers, method)
  if method == "HEAD" or status == 204 or status == 304 then
    return ""
  end
  local encoding = headers["transfer-encoding"]
  if encoding then
    if lower(encoding) ~= "chunked" then
      return nil, "unknown transfer encoding: " .. encoding
    end
    return read_chunks(sock)
  end
  local length = headers["content-length"]
  if length then
    length = tonumber(match(length, "^%d+$"))
    if not length or length > MOST_BODY then
      return nil, "body is too large, or its length malformed: " .. headers["content-length"]
    end
    if length == 0 then
      return ""
    end
    return sock:receive(length)
  end
  -- Up to the end of the connection.
  local body, err, partial = sock:receive(MOST_BODY)
  if body then
    return nil, "body is too large"
  end
  if err ~= "closed" then
    return nil, err
  end
  return partial
end

local function exchange(sock, text, method)
  local ok, err = sock:send(text)
  if not ok then
    return nil, err
  end
  local status, headers
  repeat
    local line
    line, err = sock:receive("*l")
    if not line then
      return nil, err
    end
    status = tonumber(match(line, "^HTTP/1%.[01] (%d%d%d)"))
    if not status then
      return nil, "not an HTTP answer: " .. line
    end
    headers, err = read_headers(sock)
    if not headers then
      return nil, err
    end
  until status >= 200 -- those below come before the answer
  local body
  body, err = read_body(sock, status, headers, method)
  if not body then
    return nil, err
  end
  return { status = status, headers = headers, body = body }
end

function _M.request_uri(self, uri, params)
  params = params or {}
  local parts, err = self:parse_uri(uri)
  if not parts then
    return nil, err
  end
  local scheme, host, port, path = unpack(parts)
  local default = scheme == "https" and 443 or 80
  local text
  text, err = request_text(host, port ~= default and port, path, params)
  if not text then
    return nil, err
  end
  local sock = ngx.socket.tcp()
  sock:settimeouts(unpack(self.timeouts))
  if find(host, ":", 1, true) and not find(host, "[", 1, true) then
    host = "[" .. host .. "]"
  end
  local ok
  ok, err = sock:connect(host, port)
  if not ok then
    return nil, format("connecting to %s port %d: %s", host, port, err)
  end
  if scheme == "https" then
    -- Verified against lua_ssl_trusted_certificate. lua-resty-core has an assertion fail
    -- instead of giving an error when verification fails without having waited.
    local ran
    ran, ok, err = pcall(sock.sslhandshake, sock, nil, params.ssl_server_name or host, params.ssl_verify ~= false)
    if not ran then
      ok, err = nil, "the certificate does not verify"
    end
    if not ok then
      sock:close()
      return nil, format("TLS with %s: %s", params.ssl_server_name or host, err)
    end
  end
  local answer
  answer, err = exchange(sock, text, params.method)
  sock:close()
  return answer, err
end

return _M
