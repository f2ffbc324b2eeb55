"""The page in a real Chromium: what is shown and followed, who is let in, and who can use it."""

from collections.abc import AsyncIterator

import httpx
import pytest
from playwright.async_api import Browser, expect

from headrace_facade.calls.contract import Delta, Waiting
from headrace_facade.calls.failures import ModelUnavailable
from headrace_facade.schema import TaskStatus, Why
from tests.contract.facade_.browsing import NARROW, WIDE, Visit, chromium, look, visiting
from tests.contract.facade_.page_world import (
    HOSTILE,
    KEY,
    POOR,
    TOKEN,
    PageContext,
    gpu,
    model,
    queue,
    task,
)
from tests.fake_calls.service import Never, ended, spoken
from tests.fake_calls.serving import served

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]

WHY = Why.model_validate(
    {
        "task_id": "team-a.waits",
        "status": "queued",
        "reason": "Queued",
        "message": "in the queue of team-a/qwen3-8b",
        "since": None,
        "chain": [
            {
                "about": "task",
                "name": "team-a/waits",
                "reason": "Queued",
                "message": "in the queue",
                "remedy": "wait; more replicas shorten it",
                "holds": True,
            },
            {
                "about": "model",
                "name": "team-a/qwen3-8b",
                "reason": "Serving",
                "message": "",
                "remedy": "",
                "holds": False,
            },
        ],
        "position": 4,
        "ahead": 3,
        "estimated_start_seconds": 12.5,
        "unknown": {},
    }
)
ATTEMPT = {
    "number": 1,
    "model": "team-a/qwen3-8b",
    "pod": "headrace-qwen3-8b-0",
    "startTime": "2026-01-01T00:00:00Z",
    "completionTime": "2026-01-01T00:00:02Z",
    "outcome": "Failed",
    "reason": "InvalidOutput",
    "message": "it is no JSON",
}
RESULT = {"text": "Paris <b>is</b> it.", "finishReason": "Stop", "sizeBytes": 19, "sha256": "a" * 64}


@pytest.fixture
def context() -> PageContext:
    context = PageContext()
    pages = context.pages
    pages.models = [model("qwen3-8b"), model("embedder", "Loading", load_stage="Weights", replicas=1)]
    pages.queues = [queue("qwen3-8b", queued=3, queued_together=7, running=2, oldest_wait_seconds=75.0)]
    pages.gpus = [gpu()]
    pages.put(task("waits", "Queued", reason="Queued", message="3 are ahead"), task("runs", "Running"))
    pages.put(task("done", "Complete", reason="Succeeded", result=RESULT, attempts=[ATTEMPT]))
    return context


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest.fixture
async def address(context: PageContext) -> AsyncIterator[str]:
    async with served(context) as address:
        yield address


@pytest.fixture
async def visit(browser: Browser, address: str) -> AsyncIterator[Visit]:
    async with visiting(browser, address) as visit:
        yield visit


async def test_models_queues_gpus_and_tasks_are_shown_and_follow(visit: Visit, context: PageContext) -> None:
    await visit.sign_in(TOKEN)
    page, pages = visit.page, context.pages
    await expect(page).to_have_title("team-a · Headrace")
    await expect(page.locator("#models tbody tr")).to_have_count(2)
    await expect(page.get_by_role("row", name="embedder")).to_contain_text("Weights")
    await expect(page.get_by_role("row", name="qwen3-8b local")).to_contain_text("2 of 2")
    await expect(page.locator("#queues tbody tr")).to_contain_text("1 min")
    await expect(page.locator("#gpus tbody tr")).to_contain_text("61.0 GiB of 141.0 GiB")
    await expect(page.locator("#live-tasks tbody tr")).to_have_count(2)
    await expect(page.get_by_role("row", name="waits")).to_contain_text("3 are ahead")
    await expect(page.locator("#tile-waiting")).to_have_text("3")
    await expect(page.locator("#live")).to_have_text("Live")

    pages.models[1] = model("embedder")
    pages.queues.append(queue("embedder", queued=41))
    pages.gpus.clear()
    pages.put(task("waits", "Failed", reason="Poison"), task("later", "Waiting", reason="ModelNotFound"))
    await expect(page.get_by_role("row", name="embedder local")).to_contain_text("Serving")
    await expect(page.locator("#queues tbody tr")).to_have_count(2)
    await expect(page.locator("#gpus-empty")).to_be_visible()
    await expect(page.locator("#live-tasks tbody th")).to_have_text(["runs", "later"])
    await expect(page.locator("#ended-tasks tbody th")).to_have_text(["waits", "done"])
    await expect(page.locator("#tile-waiting")).to_have_text("44")
    visit.check()


async def test_updates_can_be_paused_and_come_back(visit: Visit, context: PageContext) -> None:
    await visit.sign_in(TOKEN)
    page = visit.page
    await expect(page.locator("#live")).to_have_text("Live")
    await page.get_by_role("button", name="Pause updates").click()
    await expect(page.locator("#live")).to_have_text("Paused")
    while context.pages.seats.held:
        await page.wait_for_timeout(20)
    context.pages.put(task("later", "Waiting"))
    assert await page.get_by_role("row", name="later").count() == 0
    await page.get_by_role("button", name="Pause updates").click()
    await expect(page.get_by_role("row", name="later")).to_be_visible()
    visit.check()


async def test_a_tasks_page_follows_it_to_its_result(visit: Visit, context: PageContext) -> None:
    context.pages.why = WHY
    await visit.sign_in(TOKEN)
    page = visit.page
    await page.get_by_role("link", name="waits").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Task team-a.waits")
    await expect(page.locator("#announce")).to_have_text("This task is queued: Queued.")
    await expect(page.locator("#facts")).to_contain_text("in about 12 s")
    await expect(page.locator("#chain tbody tr")).to_have_count(2)
    await expect(page.locator("#chain")).to_contain_text("more replicas shorten it")
    assert "secret question" not in await page.content()

    context.pages.why = None
    times = {"queuedMillis": 20, "firstTokenMillis": 118, "generationMillis": 1600}
    usage = {"promptTokens": 42, "completionTokens": 7, "cachedTokens": 3}
    done = {"result": RESULT, "attempts": [ATTEMPT], "timings": times, "usage": usage}
    context.pages.put(task("waits", "Complete", reason="Succeeded", **done))
    await expect(page.locator("#announce")).to_have_text("This task is completed: Succeeded.")
    await expect(page.locator("#result")).to_have_text("Paris <b>is</b> it.")
    await expect(page.locator("#attempts tbody tr")).to_contain_text("it is no JSON")
    await expect(page.locator("#facts")).to_contain_text("7 generated")
    await expect(page.locator("#live")).to_have_text("Ended: nothing changes any more")
    # The server draws the same as the script.
    live = await page.locator("main").inner_text()
    await page.reload()
    await expect(page.locator("#live")).to_have_text("Ended: nothing changes any more")
    words = [set((await page.locator("main").inner_text()).split()), set(live.split())]
    assert {word for word in words[0] ^ words[1] if not word.isdecimal()} <= {"s", "min", "Pause", "updates"}
    visit.check()


async def test_who_is_not_known_is_not_let_in(visit: Visit) -> None:
    page = visit.page
    assert await visit.open("/ui/tasks/team-a.done?namespace=team-a") == 200
    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    for credential, told in (
        ("no.such.token", "does not accept"),
        ("two words", "identity is needed"),
        (POOR, "may not"),
    ):
        await page.get_by_label("Token or API key").fill(credential)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_contain_text(told)
        assert await visit.window.cookies() == []
        assert credential not in page.url
        assert credential not in await page.content()
    await page.get_by_label("Token or API key").fill(TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Task team-a.done")
    (cookie,) = await visit.window.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"], cookie["secure"]) == (True, "Strict", "/ui", False)
    assert await page.evaluate("document.cookie") == ""
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert await visit.window.cookies() == []
    await visit.open()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


async def test_a_link_from_elsewhere_leads_to_its_page(visit: Visit, address: str) -> None:
    await visit.sign_in(TOKEN)
    page = visit.page
    await expect(page.locator("#live")).to_have_text("Live")
    await page.goto("about:blank")
    await page.set_content(f'<a href="{address}/ui/tasks/team-a.done">that task</a>')
    async with page.expect_request("**/ui/sign-in?**"):
        await page.get_by_role("link").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Task team-a.done")
    # Who asks for the sign-in gets it, to become somebody else.
    await visit.sign_in(KEY)
    await expect(page.locator(".name")).to_have_text("key:headrace-key-alice")
    visit.check()


async def test_who_is_no_longer_known_sees_nothing_more(visit: Visit, context: PageContext) -> None:
    await visit.sign_in(TOKEN)
    page = visit.page
    await expect(page.locator("#live")).to_have_text("Live")
    context.callers.known.remove(TOKEN)
    await expect(page.locator("#live")).to_contain_text("Signed out")
    context.pages.put(task("secret-name", "Running"))
    await page.reload()
    await expect(page.get_by_role("alert")).to_contain_text("You were signed out")
    assert "secret-name" not in await page.content()
    assert await visit.window.cookies() == []


async def test_a_tenant_sees_its_own_namespaces(visit: Visit, context: PageContext) -> None:
    context.pages.put(
        {**task("theirs", "Running"), "metadata": {**task("theirs", "Running")["metadata"], "namespace": "team-b"}}
    )
    await visit.sign_in(TOKEN)
    page = visit.page
    await expect(page.locator("#live-tasks tbody th")).to_have_text(["runs", "waits"])
    await page.get_by_label("Namespace").fill("team-b")
    await page.get_by_role("button", name="Show").click()
    await expect(page.locator("#live-tasks tbody th")).to_have_text(["theirs"])
    await expect(page.locator("#models-empty")).to_be_visible()
    await page.get_by_role("link", name="Playground").click()
    assert page.url.endswith("/ui/playground?namespace=team-b")
    visit.check()
    for path in ("/ui?namespace=team-c", "/ui/tasks/team-c.theirs", "/ui/playground?namespace=team-c"):
        assert await visit.open(path) == 403
        await expect(page.get_by_role("alert")).to_contain_text("may not create llmtasks")
    assert await visit.open("/ui?namespace=NO%2F..") in (403, 422)
    assert await visit.open("/ui/tasks/team-b.none") == 404
    assert await visit.open("/ui/nowhere") == 404


async def test_an_api_key_sees_models_and_no_tasks(visit: Visit) -> None:
    await visit.sign_in(KEY)
    page = visit.page
    await expect(page.locator("#models tbody tr")).to_have_count(2)
    await expect(page.locator("#live-tasks-empty")).to_contain_text("Sign in with a token")
    assert await page.locator("#live-tasks tbody tr").count() == 0
    visit.check()
    assert await visit.open("/ui/tasks/team-a.done") == 403


async def test_what_tenants_write_is_text(visit: Visit, context: PageContext) -> None:
    pages = context.pages
    pages.put(task("waits", "Queued", model=HOSTILE, reason="Queued", message=HOSTILE))
    await visit.sign_in(TOKEN)
    page = visit.page
    title = await page.title()
    # Drawn by the server, and then by the script.
    await expect(page.get_by_role("row", name="waits")).to_contain_text('<img src=x onerror="document.title=1">')
    pages.models = [model(HOSTILE, message=HOSTILE, phase="Loading", load_stage=HOSTILE)]
    pages.queues = [queue(HOSTILE)]
    pages.gpus = [gpu(HOSTILE, pod=HOSTILE)]
    pages.put(task("runs", "Running", message=HOSTILE, model=HOSTILE))
    await expect(page.locator("#gpus tbody tr")).to_contain_text("<script>document.title=2</script>")
    await expect(page.get_by_role("row", name="runs")).to_contain_text("<img")
    hostile = {**ATTEMPT, "message": HOSTILE, "pod": HOSTILE, "model": HOSTILE}
    pages.put(task("runs", "Complete", attempts=[hostile], result={**RESULT, "text": HOSTILE}, message=HOSTILE))
    for reloaded in (False, True):
        if reloaded:
            await page.reload()
        else:
            await visit.open("/ui/tasks/team-a.runs")
        await expect(page.locator("#result")).to_contain_text("<script>document.title=2</script>")
        await expect(page.locator("#attempts")).to_contain_text("<img")
    context.calls.script = spoken(*HOSTILE)
    await visit.open("/ui/playground")
    await page.get_by_label("Prompt", exact=True).fill("x")
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator("#told")).to_contain_text("ended by Stop")
    assert await page.locator("#answer").inner_text() == HOSTILE
    assert await page.locator("main img, main script").count() == 0
    assert title not in ("1", "2")
    assert await page.title() not in ("1", "2")
    visit.check()


async def test_the_playground_streams_and_stops(visit: Visit, context: PageContext) -> None:
    context.calls.script = [Waiting("Queued", "queued", 4), *spoken("Hel", "lo")]
    await visit.sign_in(TOKEN)
    page = visit.page
    await page.get_by_role("link", name="Playground").click()
    await page.get_by_label("Model").select_option("platform/large")
    await page.get_by_label("System prompt").fill("Be brief.")
    await page.get_by_label("Prompt", exact=True).fill("Hello?")
    await page.get_by_label("Tokens at most").fill("9")
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator("#told")).to_contain_text("7 tokens")
    await expect(page.locator("#answer")).to_have_text("Hello")
    await expect(page.locator("#answer")).to_have_attribute("aria-busy", "false")
    (asked,) = context.calls.asked
    assert (asked.model, asked.parameters.max_tokens, asked.options.stream) == ("platform/large", 9, True)
    assert [each.content for each in asked.messages] == ["Be brief.", "Hello?"]
    assert context.calls.callers[0].namespace == "team-a"

    # Text is there before the end, and who stops hangs up.
    context.calls.left.clear()
    context.calls.script = [Delta(text="Half an ans"), Never()]
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator("#answer")).to_have_text("Half an ans")
    await expect(page.locator("#answer")).to_have_attribute("aria-busy", "true")
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator("#told")).to_have_text("Stopped.")
    await context.calls.left.wait()

    context.calls.script = [Delta(text="Ha"), ModelUnavailable("lost", 1)]
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator("#told")).to_have_text("It failed: lost")
    visit.check()
    context.calls.script = [ModelUnavailable("no runner", 1)]
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator("#told")).to_have_text("It failed: no runner")


async def test_everything_is_done_by_keyboard(visit: Visit, context: PageContext) -> None:
    context.calls.script = [Delta(text="Hi"), ended("Hi")]
    page = visit.page
    await visit.open()
    press = page.keyboard.press
    # The field has the focus.
    await page.keyboard.type(TOKEN)
    await press("Enter")
    await expect(page.locator("#live")).to_have_text("Live")
    await press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    await press("Enter")
    await press("Tab")
    await expect(page.get_by_role("button", name="Pause updates")).to_be_focused()
    await press("Space")
    await expect(page.locator("#live")).to_have_text("Paused")
    await press("Space")
    await expect(page.locator("#live")).to_have_text("Live")
    await press("Tab")
    await expect(page.get_by_role("link", name="runs")).to_be_focused()
    # An update does not take the focus away.
    context.pages.put(task("waits", "Waiting", age=90), task("first", "Running", age=99))
    await expect(page.locator("#live-tasks tbody th")).to_have_text(["first", "runs", "waits"])
    await expect(page.get_by_role("link", name="runs")).to_be_focused()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert await page.evaluate(outline) == "solid"
    await press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Task team-a.runs")
    for _ in range(3):
        await press("Tab")
    await expect(page.get_by_role("link", name="Overview")).to_be_focused()
    await press("Tab")
    await press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Playground")
    await expect(page.get_by_role("button", name="Send")).to_be_enabled()
    await page.get_by_label("Model").focus()
    await press("Tab")
    await press("Tab")
    await page.keyboard.type("Hello?")
    await press("Control+Enter")
    await expect(page.locator("#answer")).to_have_text("Hi")
    visit.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
async def test_it_can_be_read(
    browser: Browser, address: str, context: PageContext, viewport: dict[str, int], scheme: str
) -> None:
    long = "headrace-a-name-that-goes-on-and-on-" * 2
    context.pages.why = WHY.model_copy(update={"status": TaskStatus.QUEUED})
    context.pages.put(task(long[:63], "Waiting", message="a_word_without_an_end_" * 9))
    context.pages.put(task("failed", "Failed", reason="Poison", attempts=[ATTEMPT]), task("off", "Cancelled"))
    context.pages.models += [
        model("zero", "ScaledToZero"),
        model("broken", "Failed"),
        model("short", "WaitingForGPU", message="no node has a free GPU"),
    ]
    async with visiting(browser, address, viewport=viewport, color_scheme=scheme) as visit:
        assert await visit.open("/ui/sign-in?ended=true") == 200
        assert await look(visit.page) == []
        await visit.sign_in(TOKEN)
        for path in ("/ui", "/ui/tasks/team-a.waits", "/ui/tasks/team-a.done", "/ui/playground"):
            assert await visit.open(path) == 200
            assert await look(visit.page) == [], path
        visit.check()
        assert await visit.open("/ui/nowhere") == 404
        assert await look(visit.page) == []


async def test_without_a_script_the_page_is_there(browser: Browser, address: str) -> None:
    async with visiting(browser, address, java_script_enabled=False) as visit:
        await visit.sign_in(TOKEN)
        await expect(visit.page.locator("#live-tasks tbody th")).to_have_text(["runs", "waits"])
        visit.check()


async def test_another_sites_page_can_do_nothing(address: str) -> None:
    cookie = {"Cookie": f"headrace={TOKEN}"}
    host = address.removeprefix("http://")
    own = {"Origin": address, "Sec-Fetch-Site": "same-origin"}
    call = {"model": "small", "prompt": "x"}
    async with httpx.AsyncClient(base_url=address) as http:
        for strange in (
            {},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": f"http://{host}.evil.example"},
            {"Origin": address, "Sec-Fetch-Site": "cross-site"},
            {"Origin": address, "Sec-Fetch-Site": "same-site"},
        ):
            for path in ("/ui/sign-in", "/ui/sign-out", "/ui/playground/stream"):
                form = {"data": {"credential": TOKEN}} if path == "/ui/sign-in" else {"json": call}
                answer = await http.post(path, headers=cookie | strange, **form)
                assert answer.status_code == 403, (path, strange)
                assert "set-cookie" not in answer.headers
        assert (await http.post("/ui/playground/stream", headers=cookie | own, json=call)).status_code == 200
        # An origin alone is enough of a browser that sends no Sec-Fetch-Site.
        signed_in = await http.post("/ui/sign-in", headers={"Origin": address}, data={"credential": TOKEN})
        assert signed_in.status_code == 303
        http.cookies.clear()
        # The cookie is nobody's identity elsewhere, and a header is none here.
        assert (await http.get("/api/v1/models", headers=cookie)).status_code == 401
        assert (await http.get("/ui", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 303
        assert (await http.get("/ui", headers={"Cookie": f"headrace={KEY}; headrace={TOKEN}"})).status_code == 303
        for next_, where in (("//evil.example", "/ui"), ("/ui/../v1", "/ui"), ("/ui/tasks/a.b", "/ui/tasks/a.b")):
            answer = await http.get("/ui/signed-in", params={"next": next_}, headers=cookie)
            assert answer.headers["location"] == where
        assert (await http.get("/ui/signed-in")).status_code == 400
        secure = await http.post(
            "/ui/sign-in",
            headers={"Host": "llm.example.com", "Origin": "https://llm.example.com"},
            data={"credential": TOKEN},
        )
        assert "; Secure" in secure.headers["set-cookie"]
        page = await http.get("/ui", headers=cookie)
        assert page.headers.get_list("content-security-policy") == [page.headers["content-security-policy"]]
        assert "script-src 'self';" in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-store"
        too_long = await http.post("/ui/sign-in", headers=own, data={"credential": "x" * 70_000})
        assert too_long.status_code == 413
