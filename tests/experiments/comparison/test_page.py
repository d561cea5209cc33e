"""The page in a real browser, from disk."""

import json
import shutil
from io import BytesIO

import pytest
from PIL import Image

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    if not (BROWSER and DRIVER):
        pytest.skip("needs the programs chromium and chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, "--window-size=1200,1400"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver, compared):
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.get((compared / "index.html").as_uri())
    yield driver
    assert driver.get_log("browser") == []  # no script failed, nothing was missing


@pytest.fixture(scope="module")
def mapped(outputs, tmp_path_factory, run_compare):
    """The folder of a comparison with maps of ST-LPIPS."""
    folder = tmp_path_factory.mktemp("mapped") / "comparison"
    done = run_compare(str(outputs / "*/**/curve.json"), "--maps", "--output", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def find(page, selector):
    return page.find_elements("css selector", selector)


def choose(page, selector, value):
    from selenium.webdriver.support.select import Select

    Select(find(page, selector)[0]).select_by_value(value)


def middle(page, pane, across=0.5):
    """The colour of a pane at half its height, at a share of its width, as it is on the screen."""
    if isinstance(pane, str):
        (pane,) = find(page, pane)
    with Image.open(BytesIO(pane.screenshot_as_png)) as shot:
        return shot.convert("RGB").getpixel((int(across * shot.width), shot.height // 3))


def keys(element, *names):
    from selenium.webdriver.common.keys import Keys

    element.send_keys(*(getattr(Keys, name, name) for name in names))


def transforms(page):
    """Where each picture lies: zoom, and its corner in shares of its pane."""
    script = """return [...document.querySelectorAll('.pane .layer')].map((layer) => {
        const m = new DOMMatrix(getComputedStyle(layer).transform), box = layer.parentElement;
        return [m.a, m.e / box.clientWidth, m.f / box.clientHeight];
    })"""
    return page.execute_script(script)


def test_curves_are_drawn_and_tell_run_and_config(page):
    points = find(page, "#chart .point")
    assert len(points) == 2 + 2 + 3
    page.execute_script("arguments[0].dispatchEvent(new PointerEvent('pointerenter'))", points[1])
    (tooltip,) = find(page, "#tooltip")
    assert tooltip.is_displayed()
    for text in ("alpha", "quality=2: 0.4 bpp, PSNR 33", "curve.json", "_target_: alpha"):
        assert text in tooltip.text
    page.execute_script("arguments[0].dispatchEvent(new MouseEvent('click'))", points[1])
    assert '"fd_effnet": 0.1' in find(page, "#details-text")[0].text


def test_another_metric_and_fewer_curves(page):
    from selenium.webdriver.support.select import Select

    Select(find(page, "#metric")[0]).select_by_value("fd_effnet")
    assert len(find(page, "#chart .point")) == 4  # the publication has none
    find(page, "#legend input")[0].click()
    assert len(find(page, "#chart .point")) == 2


def test_curves_by_keyboard(page):
    first = find(page, "#chart .point[tabindex='0']")[0]
    page.execute_script("arguments[0].focus()", first)
    assert "quality=1" in find(page, "#tooltip")[0].text
    keys(page.switch_to.active_element, "ARROW_RIGHT")
    assert "alpha\nquality=2" in find(page, "#tooltip")[0].text
    keys(page.switch_to.active_element, "ARROW_DOWN")
    assert "beta\nquality=2" in find(page, "#tooltip")[0].text
    keys(page.switch_to.active_element, "ENTER")
    assert find(page, "#details")[0].is_displayed()


def test_pictures_are_at_the_nearest_common_rate(page):
    captions = [caption.text for caption in find(page, "#tiles figcaption")]
    assert captions[0] == "original"
    # 0.2 and 0.25, or 0.4 and 0.5: both pairs are as near.
    assert captions[1:] in (
        ["alpha, 0.200 bpp, 30.00 dB", "beta, 0.250 bpp, 30.00 dB"],
        ["alpha, 0.400 bpp, 31.00 dB", "beta, 0.500 bpp, 31.00 dB"],
    )
    page.execute_script("rate.value = rate.max; rate.dispatchEvent(new Event('input'))")
    assert find(page, "#tiles figcaption")[2].text == "beta, 0.500 bpp, 31.00 dB"
    sizes = page.execute_script(
        "return [...document.images].map((img) => [img.complete, img.naturalWidth])"
    )
    assert sizes == [[True, 64]] * 5


def test_the_divider_is_dragged_and_moved_by_keys(page):
    from selenium.webdriver import ActionChains

    (divider,) = find(page, "#divider")
    (viewer,) = find(page, "#viewer")
    assert divider.get_attribute("aria-valuenow") == "50"
    ActionChains(page).drag_and_drop_by_offset(divider, viewer.size["width"] // 4, 0).perform()
    assert int(divider.get_attribute("aria-valuenow")) == pytest.approx(75, abs=1)
    clip = page.execute_script("return document.getElementById('right-layer').style.clipPath")
    left = float(clip.removesuffix("px)").rpartition(" ")[2])
    assert left == pytest.approx(0.75 * viewer.size["width"], abs=0.02 * viewer.size["width"])
    page.execute_script("arguments[0].focus()", divider)
    keys(divider, "HOME", "ARROW_RIGHT")
    assert divider.get_attribute("aria-valuenow") == "2"


def test_zoom_and_shift_stay_in_step(page):
    (viewer,) = find(page, "#viewer")
    page.execute_script("arguments[0].focus()", viewer)
    keys(viewer, "+", "+", "ARROW_RIGHT")
    first, *others = transforms(page)
    assert first[0] == pytest.approx(2.25)
    assert first[1] == pytest.approx(0.5 - 2.25 * (0.5 + 0.1 / 2.25))
    assert len(others) == 4  # the other side, and three tiles
    for other in others:
        assert other == pytest.approx(first, abs=1e-3)
    keys(viewer, "0")
    assert all(place == pytest.approx([1, 0, 0]) for place in transforms(page))


def test_zoom_stays_when_codec_rate_and_kind_of_picture_are_switched(page):
    (viewer,) = find(page, "#viewer")
    page.execute_script("arguments[0].focus()", viewer)
    keys(viewer, "+", "ARROW_DOWN")
    before = transforms(page)
    assert before[0][0] == pytest.approx(1.5)
    for selector, value in (("#right", "1"), ("#left", "0"), ("#show", "4"), ("#show", "picture")):
        choose(page, selector, value)
        assert transforms(page) == before
    page.execute_script("rate.value = rate.max; rate.dispatchEvent(new Event('input'))")
    assert transforms(page) == before


def test_absolute_errors_are_amplified(page):
    page.execute_script("rate.value = rate.max; rate.dispatchEvent(new Event('input'))")
    choose(page, "#left", "0")
    choose(page, "#right", "1")
    # The reconstructions of the last points are the original plus 12 and plus 32.
    for gain, left, right in ((4, 48, 128), (16, 192, 255)):
        choose(page, "#show", str(gain))
        assert middle(page, "#viewer", 0.25) == (left,) * 3
        assert middle(page, "#viewer", 0.75) == (right,) * 3
        panes = find(page, "#tiles .pane")
        assert [middle(page, pane)[0] for pane in panes[1:]] == [left, right]
        assert len(set(middle(page, panes[0]))) > 1  # the original
    choose(page, "#show", "picture")
    assert len(set(middle(page, "#viewer", 0.25))) > 1


def test_maps_are_shown_where_there_are_some(page, mapped):
    assert not find(page, "#show option[value=map]")
    page.get((mapped / "index.html").as_uri())
    choose(page, "#show", "map")
    sources = [img.get_attribute("src") for img in find(page, "#tiles img")]
    assert [source.endswith(".st_lpips.png") for source in sources] == [False, True, True]
    assert find(page, "#map-scale")[0].text.startswith("ST-LPIPS per pixel on a square-root scale")
    sizes = page.execute_script(
        "return [...document.images].map((img) => [img.complete, img.naturalWidth])"
    )
    assert sizes == [[True, 64]] * 5


def test_a_table_for_each_image(page):
    page.execute_script("rate.value = rate.max; rate.dispatchEvent(new Event('input'))")
    (table,) = find(page, "#image-table")
    assert "one.png at about 0.500 bpp" in table.text
    rows = [[cell.text for cell in find(row, "th, td")] for row in find(table, "tr")]
    assert rows[0][:2] == ["curve", "point"]
    psnr = next(i for i, heading in enumerate(rows[0]) if heading.startswith("PSNR"))
    assert [(row[0], row[1], row[psnr]) for row in rows[1:]] == [
        ("alpha", "quality=2", "31"),
        ("beta", "quality=2", "31"),
    ]
    best = {(row, cell.text) for row in (1, 2) for cell in find(find(table, "tr")[row], ".best")}
    assert best == {(1, "31"), (2, "31")}  # equal PSNRs; no rate is better
    choose(page, "#image", "1")
    assert "two.png at about" in table.text


def test_a_tile_goes_to_the_right_of_the_divider(page):
    find(page, "#tiles .pane")[2].click()
    assert find(page, "#right-label")[0].text.startswith("beta")
    assert find(page, "#right")[0].get_attribute("value") == "1"


def test_the_table_and_its_footnotes(page):
    assert len(find(page, "#table tbody tr")) == 3
    assert "alpha (anchor)" in find(page, "#table")[0].text
    assert len(find(page, "#footnotes li")) > 2


def test_a_phone_reads_it_without_scrolling_sideways(page):
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    page.refresh()
    width = page.execute_script("return document.documentElement.scrollWidth")
    assert width <= PHONE["width"]
    assert json.loads(page.execute_script("return document.getElementById('data').textContent"))
    size = page.execute_script(
        "const t = document.querySelector('#chart text');"
        "return parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a"
    )
    assert size >= 12
