"""SynthSeg's 20 head label maps, fetched once and checked; `python synthetic.py --download DIR`.

Billot et al., SynthSeg, Medical Image Analysis 86 (2023); github.com/BBillot/SynthSeg, Apache-2.0.
The checksums are those of files that the makers packed in 2021. A file's number is taken from its
name: training_seg_01.nii.gz is seg_01.nii.gz here. A file with another checksum is refused.
"""

from __future__ import annotations

from pathlib import Path

from common.errors import InputError, replacing
from common.files import checksum
from common.progress import track

COMMIT = "3168fdf38ad220bd1927be43b67c5e9409a78ee7"
MAPS_URL = f"https://raw.githubusercontent.com/BBillot/SynthSeg/{COMMIT}/data/training_label_maps"
SHA256 = {
    "seg_01.nii.gz": "edbf1229a0552f8ce37438d02f59e810583b71b0a1b4d31dc38e5e2b2517acb1",
    "seg_02.nii.gz": "65e64c6b9415f389dfda5182ec3a269836925b04166ea82f47b230e54980d0a4",
    "seg_03.nii.gz": "f746e2f90e4dccd7bbbdc18bdd6374e455ddb7fc044504a0a42edc8507cf1aa0",
    "seg_04.nii.gz": "fbcf9d5d3b946dc53cff2e9954abb8c8172960ac35b1bf80c3ca240b4feda140",
    "seg_05.nii.gz": "a53baa7b0faea832d45f8a5b9a234b2b6d4ca92bf5c98baeada4a935cc2f1183",
    "seg_06.nii.gz": "57d8c612469359da78b7c16647cc6979be461eb03b59805e7ebded51554f9ead",
    "seg_07.nii.gz": "feaa1e8f320e037709a51e30881fe8076a45fc06611a09bbd87e76f8f3f89826",
    "seg_08.nii.gz": "f4a9d39c5c64bc5457de84b10a4c4b47f3bb6257e9f396ffa61d290015f178d2",
    "seg_09.nii.gz": "6f41f2b755c97185167d887d95180ca4c754578f81cd30fe8119df1e20bb27d5",
    "seg_10.nii.gz": "4a0147bf1d52c6853176777554165d79a01656ddb8f8474da48b65d6218b664e",
    "seg_11.nii.gz": "02e468bbb652ff0da18eeb73932f09813150ef95155ba7669831849da8517196",
    "seg_12.nii.gz": "5d0a47dd3ff4d821cc758e388a49da5744bf86dee423ed93bf727472a8454d8d",
    "seg_13.nii.gz": "d11cf676fbd5b9316fe30acbca98c854cf88dbcee74a5fe22092ac91ccd8d3a1",
    "seg_14.nii.gz": "7b8d1783c1b5b71b454644169d848b28fa57a33ca4a9b49ff88ad897b8aea570",
    "seg_15.nii.gz": "a896e39351622c2e138195780ba267811d7d162df0da0091126550f5de3b74ff",
    "seg_16.nii.gz": "f48c442569883055440a930ad098b4e747d72deb6369f529e4486c36b0cbfe81",
    "seg_17.nii.gz": "b3497de68fe813494b619d71513bafc872b7e367ee442decd8fabc094f4402fc",
    "seg_18.nii.gz": "dbf3b2297907c88481594a2441a47aa13c75452cd7323fec0313b785b04c9671",
    "seg_19.nii.gz": "719d714096fdd3c0964ad9dae6115cef9de8d93a25105504879b0dfa844da0f8",
    "seg_20.nii.gz": "4c2ab7e6a7711a6e00b7e6c6b40d5fd8c318d0aea3c472248b97d9d4c8cea555",
}


def fetch_label_maps(folder: str | Path) -> list[Path]:
    """Fetch the label maps that `folder` lacks; return the paths of all.

    Raises InputError when there is no network, when a file that came or was there is not the right
    one, or when `folder` cannot be written; the files that are there are kept.
    """
    paths = {Path(folder) / name: known for name, known in SHA256.items()}
    for path, known in track(paths.items(), len(paths), "file"):
        if not path.is_file():
            with replacing(path) as temporary:
                retrieve(f"{MAPS_URL}/training_{path.name}", known, temporary)
        elif checksum(path) != known:
            raise InputError(f"{path} is not SynthSeg's; move it away or name another --download")
    return list(paths)


def retrieve(url: str, known: str, path: Path) -> None:
    """Fetch one file to `path`. `known` is its SHA-256, or another such as "sha512:12ab...".

    Raises InputError when there is no network or when another file came; then nothing is kept.
    """
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")  # else it tells of every file
    name, folder = path.name, url.rpartition("/")[0]
    try:
        pooch.retrieve(url, known, name, path.parent)
    except RequestException as error:
        reason = "the connection failed" if error.response is None else error
        raise InputError(
            f"{name} cannot be fetched from {folder} ({reason}); check the network and run again, "
            "which goes on from here"
        ) from error
    except ValueError as error:  # pooch's word for a wrong checksum
        raise InputError(
            f"{name} came from {folder} with a wrong checksum and was not kept; run again, or "
            "fetch it by hand"
        ) from error
