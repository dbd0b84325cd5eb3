-- Chat requests for wrk:
--
--   TOKEN=… wrk -t12 -c400 -d30s --timeout 30s -s load/chat.lua http://127.0.0.1:3000
--
-- Environment: TOKEN    bearer token (required; `hasnot-engine token issue --user load --plan unlimited`)
--              CHAT_PATH  /api/hasNotEngine-optimized    MODEL   sim/basic
--              STREAM   true | false                      PROMPT  what the user says
--
-- A stream can fail after its 200, so an answer counts as whole only if it has its [DONE]. Statuses are told with the
-- `code` of their errors, as in `503 overloaded: 7`.

local token = os.getenv("TOKEN")
local model = os.getenv("MODEL") or "sim/basic"
local stream = os.getenv("STREAM") or "true"
local prompt = os.getenv("PROMPT") or "Say hello."

local function quote(text)
  local escaped = text:gsub('[%c"\\]', function(c) return string.format("\\u%04x", c:byte()) end)
  return '"' .. escaped .. '"'
end

wrk.method = "POST"
wrk.path = os.getenv("CHAT_PATH") or "/api/hasNotEngine-optimized"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. (token or "")
wrk.body = string.format(
  '{"model":%s,"messages":[{"role":"user","content":%s}],"stream":%s}',
  quote(model), quote(prompt), stream
)

-- Each thread counts in a Lua state of its own; `done` runs in another one and collects them.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init()
  if not token or token == "" then
    io.stderr:write("TOKEN is not set: `hasnot-engine token issue --user load --plan unlimited` makes one\n")
    os.exit(64)
  end
  statuses, unfinished = {}, 0
end

function response(status, _, body)
  local code = status >= 400 and body:match('"code"%s*:%s*"([%w_]+)"')
  local said = code and status .. " " .. code or tostring(status)
  statuses[said] = (statuses[said] or 0) + 1
  if status == 200 and stream == "true" and not body:sub(-24):find("[DONE]", 1, true) then
    unfinished = unfinished + 1
  end
end

function done(summary, latency, requests)
  local answers, classes, said_by, unfinished = 0, {}, {}, 0
  for _, thread in ipairs(threads) do
    unfinished = unfinished + thread:get("unfinished")
    for said, count in pairs(thread:get("statuses")) do
      local class = tonumber(said:sub(1, 1))
      answers = answers + count
      classes[class] = (classes[class] or 0) + count
      said_by[said] = (said_by[said] or 0) + count
    end
  end

  local seconds = summary.duration / 1e6
  print(string.format("\nrequests    %d in %.1f s, %.0f/s", answers, seconds, answers / seconds))
  for class = 1, 5 do
    if classes[class] then
      local parts = {}
      for said, count in pairs(said_by) do
        if tonumber(said:sub(1, 1)) == class then
          table.insert(parts, string.format("%s: %d", said, count))
        end
      end
      table.sort(parts)
      print(string.format("status %dxx  %d (%s)", class, classes[class], table.concat(parts, ", ")))
    end
  end

  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  local failed = answers - (classes[2] or 0) + unfinished + broken
  print(string.format("broken      %d streams without [DONE]", unfinished))
  print(string.format("sockets     connect %d, read %d, write %d, timeout %d",
    errors.connect, errors.read, errors.write, errors.timeout))
  print(string.format("error rate  %.3f %%", 100 * failed / math.max(1, answers + broken)))
  print(string.format("latency ms  mean %.1f  p50 %.1f  p90 %.1f  p95 %.1f  p99 %.1f  max %.1f",
    latency.mean / 1e3, latency:percentile(50) / 1e3, latency:percentile(90) / 1e3,
    latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
