"""Original, reconstruction and error pictures side by side."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from torch import Tensor

from callbacks.tracking import never_fatal
from diffcodec.codec import to_uint8
from diffcodec.measuring import CodecOutput, MeasuringPass
from diffcodec.metrics.psnr import psnr
from diffcodec.results.contact_sheet import contact_sheet
from diffcodec.results.curves import picture_name, safe_name

ERROR_GAIN = 4  # factor on the absolute error in pictures
SHEET_IMAGES = 4
COMPARED = 512  # width of each picture in pixels


class Reconstructions(Callback):
    """For the first images of the test set and each operating point, writes

            reconstructions/original/NAME.png       the original
            reconstructions/POINT/NAME.png          the reconstruction
            reconstructions/POINT/NAME.compare.png  original | reconstruction | error
            reconstructions/sheet.png               the first four images at all points so far

    and logs the comparisons to W&B.

    Args:
        folder: of `reconstructions/`.
        max_images: number of images.
    """

    def __init__(self, folder: str, max_images: int = 8) -> None:
        self.folder = Path(folder) / "reconstructions"
        self.max_images = max_images
        self._columns = [("original", self.folder / "original")]
        self._originals: set[str] = set()

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: LightningModule, outputs: CodecOutput, *_: Any
    ) -> None:
        for i, index in enumerate(outputs.index):
            if index >= self.max_images:
                continue
            x = to_uint8(outputs.x[i]).cpu()
            name = outputs.name[i]
            stem = picture_name(index, name)
            if stem not in self._originals:  # written once for all passes
                self._originals.add(stem)
                _save(x, self.folder / "original" / f"{stem}.png")
            for decoding in outputs.decodings:
                x_hat = to_uint8(decoding.x_hat[i]).cpu()
                folder = self.folder / safe_name(decoding.point.name)
                _save(x_hat, folder / f"{stem}.png")
                rate = ""
                if decoding.num_bytes is not None:
                    rate = f"{8 * decoding.num_bytes[i] / (x.shape[-2] * x.shape[-1]):.4f} bpp, "
                error = (x.int() - x_hat.int()).abs().mul(ERROR_GAIN).clamp(max=255).byte()
                columns = {
                    f"original\n{name}": x,
                    f"{decoding.point.name}\n{rate}{psnr(x, x_hat):.2f} dB": x_hat,
                    f"|error| x {ERROR_GAIN}": error,
                }
                sheet = contact_sheet(
                    [(head, [_picture(image)]) for head, image in columns.items()], size=COMPARED
                )
                sheet.save(folder / f"{stem}.compare.png", compress_level=1)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, MeasuringPass)
        for result in pl_module.results:
            folder = self.folder / safe_name(result.point.name)
            rate = result.metrics.get("bpp")
            told = "" if rate is None else f"{rate:.4f} bpp"
            self._columns.append((f"{result.point.name}\n{told}", folder))
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    for picture in sorted(folder.glob("*.compare.png")):
                        # One key per image: W&B's slider then moves over the operating points.
                        key = f"reconstructions/{picture.name.removesuffix('.compare.png')}"
                        with never_fatal():
                            logger.log_image(key, [str(picture)], caption=[result.point.name])
        # An older run may have left other pictures in this folder.
        names = [
            path.name
            for path in sorted((self.folder / "original").glob("*.png"))
            if all((folder / path.name).is_file() for _, folder in self._columns)
        ]
        if names and len(self._columns) > 1:
            shown = names[:SHEET_IMAGES]
            columns = [(head, [folder / name for name in shown]) for head, folder in self._columns]
            contact_sheet(columns).save(self.folder / "sheet.png")


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _save(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _picture(image).save(path)
